"""A headless Chromium that is driven: pages, keys, what it asked for and what it complained of."""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
_SPECIAL = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9)}


class Chromium:
    """One browser with one page, over its DevTools protocol."""

    def __init__(self, profile: Path) -> None:
        assert BROWSER is not None
        self.console: list[str] = []
        self.requests: list[str] = []
        self._profile, self._ids = profile, itertools.count(1)
        self._loop = asyncio.new_event_loop()
        self._process = subprocess.Popen(
            [
                BROWSER,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--no-first-run",
                f"--user-data-dir={profile}",
                "--remote-debugging-port=0",
                "--hide-scrollbars",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def __enter__(self) -> Self:
        self._loop.run_until_complete(self._connect())
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._loop.run_until_complete(self._disconnect())
        self._loop.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def call(self, method: str, **parameters: Any) -> Any:
        """One command's result."""
        return self._loop.run_until_complete(self._call(method, parameters))

    def open(self, address: str) -> None:
        """Go there, and wait until it has loaded."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def eval(self, script: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 20) -> None:
        """Until a page is loaded, and an expression true of it."""
        whole = f"document.readyState === 'complete' && !!({script})"
        self._until(lambda: self.eval(whole) is True, seconds, script)

    def press(self, key: str) -> None:
        text, code = _SPECIAL[key] if key in _SPECIAL else (key, ord(key.upper()))
        told = {"key": key, "windowsVirtualKeyCode": code}
        typed = {"text": text} if text else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **told, **typed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    def write(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def size(self, width: int, height: int, *, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def picture(self, file: Path, *, whole: bool = False) -> None:
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))

    def _until(self, is_true: Callable[[], bool], seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError, RuntimeError):
                if is_true():
                    return
            time.sleep(0.05)
        raise TimeoutError(what)

    async def _connect(self) -> None:
        told = self._profile / "DevToolsActivePort"
        for _ in range(600):
            if told.exists() and len(told.read_text().splitlines()) == 2:
                break
            await asyncio.sleep(0.05)
        port = told.read_text().splitlines()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            (page,) = [p for p in await answer.json() if p["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)

    async def _disconnect(self) -> None:
        await self._socket.close()
        await self._session.close()

    async def _call(self, method: str, parameters: dict[str, Any]) -> Any:
        own = next(self._ids)
        await self._socket.send_json({"id": own, "method": method, "params": parameters})
        while True:
            told = json.loads((await self._socket.receive(timeout=60)).data)
            if told.get("id") == own:
                if "error" in told:
                    raise RuntimeError(told["error"])
                return told["result"]
            self._note(told)

    def _note(self, told: dict[str, Any]) -> None:
        event, said = told.get("method"), told.get("params", {})
        if event == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif event in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.console.append(json.dumps(said))
