"""Job kinds. Adding one is a file here and a line in ``KINDS``."""

from __future__ import annotations

from shared.kinds.base import InputImage, InputUpload, Kind, StoredImage
from shared.kinds.image_generate import ImageGenerate
from shared.kinds.text_generate import TextGenerate

KINDS: dict[str, Kind] = {kind.name: kind for kind in (TextGenerate(), ImageGenerate())}

__all__ = ["KINDS", "InputImage", "InputUpload", "Kind", "StoredImage"]
