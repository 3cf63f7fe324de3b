"""A page in headless Chromium, driven over pipes."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Page:
    """One tab."""

    def __init__(self, to: RawIOBase, back: RawIOBase) -> None:
        self._to = to
        self._back = back
        self._read = b""
        self._last = 0
        self._session: str | None = None
        self.violations: list[str] = []
        """What the content security policy of the page refused."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits"):
            self._call(f"{domain}.enable")

    def open(self, url: str) -> None:
        """Load an address."""
        self._call("Page.navigate", url=url)

    def on_load(self, script: str) -> None:
        """Run a script in every document before its own."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=script)

    def eval(self, expression: str) -> Any:
        """The value of an expression of JavaScript."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True,
                            awaitPromise=True)  # fmt: skip
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Return once an expression is true."""
        end = time.monotonic() + seconds
        while not self.eval(f"Boolean({expression})"):
            text = self.eval("document.body?.innerText")
            assert time.monotonic() < end, f"not true: {expression}; the page says {text!r}"
            self.eval("new Promise(requestAnimationFrame)")

    def set_files(self, selector: str, *paths: Path) -> None:
        """Choose files in an input, as a person would."""
        expression = f"document.querySelector({json.dumps(selector)})"
        found = self._call("Runtime.evaluate", expression=expression)["result"]
        files = [str(path) for path in paths]
        self._call("DOM.setFileInputFiles", files=files, objectId=found["objectId"])

    def press(self, key: str, *, modifiers: int = 0, text: str = "") -> None:
        """Press a key of the keyboard; ``modifiers`` 2 is Ctrl."""
        codes = {"Enter": 13, "Tab": 9, "ArrowRight": 39}
        for kind in ("keyDown", "keyUp"):
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                       modifiers=modifiers, text=text if kind == "keyDown" else "",
                       windowsVirtualKeyCode=codes.get(key, 0))  # fmt: skip

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse, as ``mousePressed``, at CSS pixels of the window."""
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def touch(self, kind: str, *points: tuple[float, float]) -> None:
        """Send an event of the fingers that touch the window, as ``touchStart``."""
        fingers = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
        self._call("Input.dispatchTouchEvent", type=kind, touchPoints=fingers)

    def look(self, *, width: int, height: int = 900, scheme: str = "light") -> None:
        """Set the size of the window in CSS pixels, and light or dark."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                   deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path: Path) -> None:
        """Save a PNG of the whole page."""
        data = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(data["data"]))

    def downloads(self, folder: Path) -> None:
        """Save downloads there, instead of refusing them."""
        self._call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        sent: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            sent["sessionId"] = self._session
        self._to.write(json.dumps(sent).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._last:
            self._note(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._read:
            more = self._back.read(1 << 16)
            assert more, "Chromium ended"
            self._read += more
        line, _, self._read = self._read.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict[str, Any]) -> None:
        text = json.dumps(event.get("params", {}))
        if "ontentSecurityPolicyIssue" in text or "Content Security Policy" in text:
            self.violations.append(text)


@contextmanager
def chromium(profile: Path) -> Generator[Page]:
    """A page until the block ends; ``profile`` is an empty folder."""
    assert CHROMIUM is not None
    commands, to = os.pipe()
    back, answers = os.pipe()

    def pipes() -> None:  # Chromium reads 3 and writes 4
        kept = os.dup(answers)
        os.dup2(commands, 3)
        os.dup2(kept, 4)

    process = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe",
         "--enable-unsafe-swiftshader",  # WebGL without a graphics card
         "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
         f"--user-data-dir={profile}"],
        pass_fds=(3, 4, commands, answers), preexec_fn=pipes,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands)
    os.close(answers)
    with os.fdopen(to, "wb", buffering=0) as writer, os.fdopen(back, "rb", buffering=0) as reader:
        try:
            yield Page(writer, reader)
        finally:
            process.kill()
            process.wait()
