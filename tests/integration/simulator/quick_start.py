"""The quick start of the service's documents with nothing but httpx: submit, look every few seconds, download."""

import os
import sys
import time
from pathlib import Path

import httpx

BASE_URL = os.environ.get("EVOLINK_BASE_URL", "https://api.evolink.ai")
PAUSE = float(os.environ.get("PAUSE_SECONDS", "5"))
USER_AGENT = {"User-Agent": "quick-start/1.0"}

api = httpx.Client(
    base_url=BASE_URL, headers={"Authorization": f"Bearer {os.environ['EVOLINK_API_KEY']}"}, timeout=30
)
order = {
    "model": "gpt-image-1",
    "prompt": " ".join(sys.argv[1:]),
    "size": "1024x1024",
    "quality": "low",
    "n": 2,
}
task = api.post("/v1/images/generations", json=order).raise_for_status().json()
print("submitted", task["id"])
while task["status"] not in ("completed", "failed", "cancelled"):
    time.sleep(PAUSE)
    task = api.get(f"/v1/tasks/{task['id']}").raise_for_status().json()
    print(task["status"], f"{task['progress']} %")
if task["status"] != "completed":
    sys.exit(f"{task['status']}: {task.get('error')}")
for number, url in enumerate(task["results"]):
    image = httpx.get(url, headers=USER_AGENT, timeout=60).raise_for_status()
    path = Path(f"image-{number}.{url.rsplit('.', 1)[-1]}")
    path.write_bytes(image.content)
    print("saved", path, len(image.content), "bytes")
print("charged", task["usage"]["credits_used"], "credits")
