"""A headless Chromium that cannot reach any host, driven by its own protocol: pages, a mouse, screenshots.

    with Browser(folder) as browser:
        page = browser.open(path.as_uri(), width=390)
        page.wait("document.querySelector('.nas-chart')?.dataset.state === 'live'")
        page.drag((100, 100), (200, 200))
        assert not page.complaints
"""

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH to see the pages")


class Browser:
    """One Chromium with a profile in ``folder``; only ``hosts`` can be reached."""

    def __init__(self, folder: Path, hosts: str = ""):
        self.folder = folder
        rules = "MAP * ~NOTFOUND" + (f", EXCLUDE {hosts}" if hosts else "")
        self.command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--host-resolver-rules={rules}",
                        "--allow-file-access-from-files", "--remote-debugging-port=0", "--remote-allow-origins=*",
                        f"--user-data-dir={folder / 'profile'}", "about:blank"]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        said, end = self.folder / "profile/DevToolsActivePort", time.monotonic() + 30
        while not (said.is_file() and len(said.read_text().splitlines()) == 2):
            assert time.monotonic() < end and self.process.poll() is None, "Chromium did not start"
            time.sleep(0.05)
        port, path = said.read_text().splitlines()
        self.socket = websocket.create_connection(f"ws://127.0.0.1:{port}{path}", timeout=180)
        self.sent, self.pages = 0, {}
        return self

    def __exit__(self, *_):
        self.socket.close()
        self.process.terminate()
        self.process.wait(20)

    def call(self, method: str, session: str | None = None, **parameters):
        """The answer to one command; what the browser says meanwhile goes to its page."""
        self.sent += 1
        call = {"id": self.sent, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        self.socket.send(json.dumps(call))
        while (answer := json.loads(self.socket.recv())).get("id") != self.sent:
            if answer.get("sessionId") in self.pages:
                self.pages[answer["sessionId"]].hear(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, url: str, width: int = 1200, height: int = 900, dark: bool = False) -> "Page":
        """A page of this width, in the light or dark theme that its reader prefers."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, target, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log"):
            page.call(f"{domain}.enable")
        page.size(width, height)
        page.call("Emulation.setEmulatedMedia", features=[
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        page.go(url)
        return page


class Page:
    """One page; ``complaints`` holds all that it wrote to the console, and what it could not load."""

    def __init__(self, browser: Browser, target: str, session: str):
        self.browser, self.target, self.session, self.complaints = browser, target, session, []
        browser.pages[session] = self

    def call(self, method: str, **parameters):
        return self.browser.call(method, self.session, **parameters)

    def hear(self, event: dict):
        what = event["params"]
        if event["method"] == "Runtime.consoleAPICalled":
            self.complaints.append(" ".join(str(a.get("value", a.get("description"))) for a in what["args"]))
        elif event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(what["exceptionDetails"].get("exception", what["exceptionDetails"]).get("description"))
        elif event["method"] == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{what['entry']['text']} {what['entry'].get('url', '')}")

    def go(self, url: str):
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def size(self, width: int, height: int):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, script: str):
        """The value of a JavaScript expression, or of what it promises."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, condition: str, seconds: float = 120):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < end, f"after {seconds} s still not: {condition}; {self.complaints}"
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float, button: str = "none"):
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, button=button,
                  buttons=int(button == "left"), clickCount=int(button == "left"))

    def drag(self, start: tuple[float, float], end: tuple[float, float]):
        self.mouse("Moved", *start)
        self.mouse("Pressed", *start, "left")
        for k in range(1, 5):
            self.mouse("Moved", *(a + (b - a) * k / 4 for a, b in zip(start, end, strict=True)), "left")
        self.mouse("Released", *end, "left")

    def shot(self, path: Path, whole: bool = False):
        """A picture of what is seen, or of the whole page."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        Path(path).write_bytes(base64.b64decode(image))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
