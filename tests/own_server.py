"""A server program with a child of its own that leaves its group: what a supervisor must end.

`python own_server.py PORT PIDS [MODE]` writes its pid and its child's to PIDS. MODE `dies` ends
after its first request, `never` never listens, `refuses` ends at once.
"""

import http.server
import os
import subprocess
import sys
import time
from pathlib import Path


class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        if mode == "dies":
            self.wfile.flush()
            os._exit(7)

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    port, pids, mode = int(sys.argv[1]), Path(sys.argv[2]), (sys.argv[3:] or ["serves"])[0]
    if mode == "refuses":
        sys.exit("CUDA out of memory")
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )
    with pids.open("a") as file:
        file.write(f"{os.getpid()} {child.pid}\n")
    if mode == "never":
        time.sleep(600)
    http.server.ThreadingHTTPServer(("127.0.0.1", port), Health).serve_forever()
