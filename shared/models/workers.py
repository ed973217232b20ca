"""Worker processes that are alive, so that a client learns when none is."""

from __future__ import annotations

from sqlalchemy import Text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from shared.models.base import Base, CreatedAt, Timestamp


class Worker(Base):
    """One worker process; it writes its row anew with every renewal of leases."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(Text, primary_key=True)
    queues: Mapped[list[str]] = mapped_column(ARRAY(Text))
    concurrency: Mapped[int]
    in_flight: Mapped[int]
    started_at: Mapped[CreatedAt]
    heartbeat_at: Mapped[Timestamp]
