"""``python -m scripts.benching.apps.server APP PORT``: an app under uvicorn, set up as Plantain's API is."""

import sys

import uvicorn

if __name__ == "__main__":
    uvicorn.run(
        f"scripts.benching.apps.{sys.argv[1]}:app",
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
    )
