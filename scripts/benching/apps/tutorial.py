"""FastAPI, SQLAlchemy's ORM and Celery, put together as their tutorials do: a row, a commit, a `send_task`."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID, uuid4

from celery import Celery
from fastapi import Depends, FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import JSON, DateTime
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

engine = create_async_engine(
    os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"), pool_size=10
)
sessions = async_sessionmaker(engine, expire_on_commit=False)
celery = Celery("tutorial", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])


class Base(DeclarativeBase):
    pass


class Job(Base):
    __tablename__ = "jobs"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    kind: Mapped[str]
    model: Mapped[str]
    input: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(default="queued", index=True)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


class JobIn(BaseModel):
    kind: str
    model: str
    input: dict[str, Any]


class JobOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    kind: str
    model: str
    state: str
    created_at: datetime


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


async def session() -> AsyncIterator[AsyncSession]:
    async with sessions() as opened:
        yield opened


Session = Annotated[AsyncSession, Depends(session)]


@app.post("/jobs", status_code=202)
async def submit(job: JobIn, db: Session) -> JobOut:
    row = Job(**job.model_dump())
    db.add(row)
    await db.commit()
    celery.send_task("run_job", args=[str(row.id)])
    return JobOut.model_validate(row)


@app.get("/jobs/{job_id}")
async def get(job_id: UUID, db: Session) -> JobOut:
    return JobOut.model_validate(await db.get_one(Job, job_id))
