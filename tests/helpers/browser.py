"""Pages in a real browser, as wide as a phone or a screen."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or "chromium"
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=5000",
)
ERRORS = "<script>window.errors = []; addEventListener('error', (event) => window.errors.push(event.message))</script>"
REPORT = """<script>
addEventListener("load", () => {{
{probe}
  parent.document.body.insertAdjacentHTML("beforeend", "<pre id='seen'></pre>");
  parent.document.getElementById("seen").textContent = JSON.stringify(seen);
}});
</script>"""


def visit(page: str, probe: str, width: int) -> dict:
    """Open a page in a frame of that width (a window has a least width), and return what the probe has seen.

    Args:
        page: the page's HTML.
        probe: JavaScript that runs once the page is there, and declares `seen`.
        width: in pixels.
    """
    probed = page.replace("<title>", f"{ERRORS}<title>", 1).replace("</body>", f"{REPORT.format(probe=probe)}</body>")
    frame = f'<iframe style="border: 0" width="{width}" height="844" srcdoc="{html.escape(probed)}"></iframe>'
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder, "page.html")
        outer.write_text(f'<!DOCTYPE html><meta charset="utf-8"><body>{frame}</body>')
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder}/profile", "--window-size=1400,900", "--dump-dom"]
        done = subprocess.run([*command, outer.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return json.loads(html.unescape(re.findall(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[-1]))
