"""What the simulated providers know: models, picture dimensions, latencies, limits. Data, no behaviour."""

from dataclasses import dataclass

#: The header that every answer carries, so that nobody takes it for a model's work.
SIMULATED_HEADER = "x-plantain-simulated"

SIZES = ("1K", "2K", "4K")
SIZE_FACTOR = {"1K": 1, "2K": 2, "4K": 4}

#: Pixels (width, height) of a 1K picture; 2K doubles both, 4K quadruples them. Multiples of 16.
DIMENSIONS_1K = {
    "1:1": (1024, 1024),
    "2:3": (848, 1264),
    "3:2": (1264, 848),
    "3:4": (896, 1200),
    "4:3": (1200, 896),
    "4:5": (928, 1152),
    "5:4": (1152, 928),
    "9:16": (768, 1376),
    "16:9": (1376, 768),
    "21:9": (1584, 672),
}

#: Billed output tokens of one picture.
IMAGE_TOKENS = {"1K": 1120, "2K": 1120, "4K": 2000}

INPUT_MEDIA_TYPES = frozenset({"image/png", "image/jpeg", "image/webp", "image/heic", "image/heif"})
MAX_INPUT_IMAGES = 14
MAX_INPUT_IMAGE_BYTES = 7 * 1024 * 1024
MAX_REQUEST_BYTES = 20 * 1024 * 1024  # the provider's own limit, answered as 400
MAX_BODY_BYTES = 40 * 1024 * 1024  # the server's limit, answered as 413

CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds: the median and the 95th percentile of a lognormal distribution."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Model:
    """One upstream model."""

    id: str
    #: "text" or "image".
    kind: str
    title: str
    latency: dict[str, Latency]  # by size for an image model; the key "" holds everything else
    #: Thinks without being asked, so that thoughtsTokenCount is never empty.
    thinks: bool = False
    #: What it answers when the request does not choose.
    media_type: str = "image/png"
    #: Prompt tokens charged for one input image.
    input_image_tokens: int = 258
    input_token_limit: int = 1_048_576
    output_token_limit: int = 65_536

    def latency_of(self, size: str) -> Latency:
        """The distribution for a picture size; "" for text."""
        return self.latency.get(size) or self.latency[""]


TEXT_LATENCY = {"": Latency(2.5, 8.0)}
IMAGE_LATENCY = {"": Latency(8.0, 25.0)}
PRO_IMAGE_LATENCY = {
    "": Latency(18.0, 25.0),
    "1K": Latency(18.0, 25.0),
    "2K": Latency(35.0, 50.0),
    "4K": Latency(60.0, 90.0),
}

MODELS: dict[str, Model] = {
    model.id: model
    for model in (
        Model("gemini-3.8-flash", "text", "Gemini 3.8 Flash", TEXT_LATENCY),
        Model("gemini-3.5-flash-lite", "text", "Gemini 3.5 Flash-Lite", TEXT_LATENCY),
        Model(
            "gemini-nano-banana-2.1",
            "image",
            "Nano Banana 2.1",
            IMAGE_LATENCY,
            input_image_tokens=560,
            input_token_limit=131_072,
            output_token_limit=32_768,
        ),
        Model(
            "gemini-3-pro-image",
            "image",
            "Nano Banana Pro",
            PRO_IMAGE_LATENCY,
            thinks=True,
            media_type="image/jpeg",
            input_image_tokens=560,
            input_token_limit=65_536,
            output_token_limit=32_768,
        ),
    )
}

#: Ids that still answer, but by another model: the answer's modelVersion says which.
REROUTED = {"gemini-2.5-flash": "gemini-3.8-flash", "gemini-2.5-pro": "gemini-3.8-flash"}

#: The gateway's own names.
GATEWAY_MODELS = {"nano-banana": "gemini-nano-banana-2.1", "nano-banana-pro": "gemini-3-pro-image"}


def extra_model(model_id: str, kind: str) -> Model:
    """A model that is not in the table, so that a new catalogue entry can be tried before it is added here."""
    latency = IMAGE_LATENCY if kind == "image" else TEXT_LATENCY
    return Model(model_id, kind, model_id, latency, input_image_tokens=560 if kind == "image" else 258)


def dimensions(ratio: str, size: str) -> tuple[int, int]:
    """Width and height in pixels. KeyError for a ratio or size that does not exist."""
    width, height = DIMENSIONS_1K[ratio]
    factor = SIZE_FACTOR[size]
    return width * factor, height * factor


def tokens_of(text: str) -> int:
    """A token count from the length of a text: about four characters each, at least one unless it is empty."""
    return -(-len(text) // CHARACTERS_PER_TOKEN)
