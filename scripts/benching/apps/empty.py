"""FastAPI that does nothing: nobody who uses it can be faster."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/")
@app.post("/")
async def nothing() -> dict[str, str]:
    return {}
