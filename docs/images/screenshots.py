"""Take the screenshots of docs/images/ in a headless Chromium.

    python docs/images/screenshots.py --report reports/alpha_0/report.html --compare reports/compare.png \
        --speech speech/report.html --logdir runs/quickstart --tensorboard ENV/bin/tensorboard

Each picture is made of what is given: report.png of a report of `evaluate`, compare.png a copy of the plot of
`evaluate --compare`, report_speech.png of a report of `evaluate --speech`, and tensorboard_scalars.png,
tensorboard_images.png and tensorboard_text.png of the runs in a folder, by a TensorBoard that is started for them.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from urllib.error import URLError

from PIL import Image

HERE = Path(__file__).parent
MOST_BYTES = 200_000
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --hide-scrollbars"
).split()
TABS = {  # tab of TensorBoard -> address behind its host
    "scalars": "#scalars&tagFilter=wer%7Closs%7Ccos&_smoothingWeight=0",
    "images": "#images",
    "text": "#text",
}


def shoot(chromium: str, url: str, name: str, *, width: int = 1200, height: int = 900, seconds: int = 5) -> None:
    """Write a screenshot as a PNG with 256 colors or fewer.

    Args:
        chromium: The browser.
        url: Page.
        name: Name of the picture, without folder and suffix.
        width: Width of the window in pixels.
        height: Height.
        seconds: Virtual time that the page's scripts have before the picture is taken.
    """
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "shot.png"
        flags = [*FLAGS, f"--user-data-dir={folder}/profile", f"--window-size={width},{height}"]
        flags += [f"--virtual-time-budget={1000 * seconds}", f"--screenshot={target}"]
        subprocess.run([chromium, *flags, url], check=True, capture_output=True, timeout=300)
        image = Image.open(target).convert("RGB")
    for colors in (256, 128, 64, 32):
        buffer = io.BytesIO()
        image.quantize(colors, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    else:
        raise SystemExit(f"{name}: found {buffer.tell()} bytes with {colors} colors, expected at most {MOST_BYTES}")
    (HERE / f"{name}.png").write_bytes(buffer.getvalue())
    print(f"{name}.png: {buffer.tell()} bytes, {colors} colors")


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def shoot_tensorboard(chromium: str, tensorboard: str, logdir: str, tabs: list[str]) -> None:
    """Start TensorBoard on a folder of runs and take a screenshot of each tab."""
    port = free_port()
    server = subprocess.Popen(
        [tensorboard, "--logdir", logdir, "--port", str(port), "--load_fast=false"], stderr=subprocess.DEVNULL
    )
    try:
        host = f"http://localhost:{port}/"
        wait_for(host + "data/plugins_listing")
        for tab in tabs:
            shoot(chromium, host + TABS[tab], f"tensorboard_{tab}", seconds=60)
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, seconds: float = 120) -> None:
    """Wait until a page is there."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (URLError, OSError):
            if time.monotonic() > end:
                raise
            time.sleep(1)


def main() -> None:
    """Take the screenshots of what is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chromium", default="chromium", help="the browser")
    parser.add_argument("--report", type=Path, help="report.html of evaluate")
    parser.add_argument("--speech", type=Path, help="report.html of evaluate --speech")
    parser.add_argument("--compare", type=Path, help="compare.png of evaluate --compare")
    parser.add_argument("--logdir", help="folder with runs, for TensorBoard")
    parser.add_argument("--tensorboard", default="tensorboard", help="the program")
    parser.add_argument("--tabs", nargs="+", default=list(TABS), choices=list(TABS), help="tabs of TensorBoard")
    args = parser.parse_args()
    if args.report:
        shoot(args.chromium, args.report.resolve().as_uri(), "report", height=1200)
    if args.compare:
        shutil.copy(args.compare, HERE / "compare.png")
    if args.speech:
        shoot(args.chromium, args.speech.resolve().as_uri(), "report_speech", height=1450)
    if args.logdir:
        shoot_tensorboard(args.chromium, args.tensorboard, args.logdir, args.tabs)


if __name__ == "__main__":
    main()
