"""A server that behaves as the Hugging Face Hub does, on this machine: the Hub itself, which knows repositories and
redirects to files, and a storage host on another port, which large files come from.

    with Hub() as hub:
        hub.add("org/name", {"config.json": b"{}", "model.safetensors": LARGE}, large=["model.safetensors"])
        ... HF_ENDPOINT=hub.endpoint ...
        hub.requests  # what was asked: Request(host="hub" or "storage", method, path, headers)

Faults are asked for by attributes: see Hub.
"""

import collections
import gzip
import hashlib
import http.server
import json
import ssl
import threading
import urllib.parse

Request = collections.namedtuple("Request", "host method path headers")


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Repo:
    def __init__(self, files, large, token, gated):
        self.token, self.gated = token, gated
        self.commits, self.revisions = {}, {}
        self.commit(files, large)

    def commit(self, files, large=(), revision="main"):
        """A new commit with these files and no others; its hash."""
        sha = hashlib.sha1(repr((sorted(files.items()), revision, len(self.commits))).encode()).hexdigest()
        self.commits[sha] = (dict(files), set(large))
        self.revisions[revision] = sha
        return sha

    def find(self, revision):
        sha = self.revisions.get(revision, revision)
        return sha if sha in self.commits else None


class Hub:
    def __init__(self, certificate=None):
        self.repos = {}
        self.requests = []
        self.content = {}  # by SHA-256, of the storage host
        # Faults.
        self.cuts = []  # the next bodies of the storage host end after so many bytes
        self.statuses = {}  # path of the Hub or "storage" -> a status to answer with, once for each entry of its list
        self.headers = {}  # of answers to resolve: name -> value instead, or None for none
        self.ignore_ranges = False  # always the whole file
        self.wrong_range = False  # 206, but of another part
        self.damage = False  # a byte of each large body is wrong
        self.slow = 0.0  # seconds between pieces of a body of the storage host
        self.stall = False  # no answer at all
        self.stalls = []  # the next bodies of the storage host stand still after so many bytes
        self.trickle = False  # headers of the Hub come a byte at a time, without end
        self.gzip = False  # small files come compressed, whatever was asked for
        self.prefix = ""  # a path before every path of the Hub
        self.endless = False  # bodies of the storage host have no end
        self.redirect_to = None  # where large files are said to be
        self.extra_names = []  # names in the list of files
        self.after = lambda request: None  # is called when a request was answered
        self.wait = threading.Event()  # set at the end
        self.scheme = "http" if certificate is None else "https"
        self.servers = [self._serve(kind, certificate) for kind in ("hub", "storage")]
        self.endpoint, self.storage = (f"{self.scheme}://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def _serve(self, kind, certificate):
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub, Handler.kind = hub, kind
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        server.handle_error = lambda *_: None
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def add(self, name, files, large=(), kind="models", token=None, gated=False):
        repo = Repo(files, large, token, gated)
        self.repos[kind, name] = repo
        return repo

    def asked(self, host, method=None, path=""):
        return [r for r in self.requests if r.host == host and method in (None, r.method) and path in r.path]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        request = Request(self.kind, self.command, self.path, dict(self.headers))
        self.hub.requests.append(request)
        self._answer()
        self.hub.after(request)

    do_GET = do_HEAD

    def _answer(self):
        hub = self.hub
        if hub.stall:
            hub.wait.wait(30)
            self.close_connection = True
            return
        if hub.trickle:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
            while not hub.wait.wait(0.2):
                self.wfile.write(b"x")
        path = urllib.parse.urlsplit(self.path).path
        if self.kind == "hub" and hub.prefix:
            if not path.startswith(hub.prefix + "/"):
                return self._say(404, {})
            path = path.removeprefix(hub.prefix)
        planned = hub.statuses.get("storage" if self.kind == "storage" else path)
        if planned:
            self._say(planned.pop(0), {})
        elif self.kind == "storage":
            self._store(path)
        elif path.startswith("/api/resolve-cache/"):
            kind, rest = path.removeprefix("/api/resolve-cache/").split("/", 1)
            self._small(kind, rest)
        elif path.startswith("/api/"):
            self._list(path.removeprefix("/api/"))
        elif "/resolve/" in path:
            self._resolve(path)
        else:
            self._say(404, {})

    def _say(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _repo(self, kind, name):
        """The repository, or None, and then the answer was given."""
        repo = self.hub.repos.get((kind, name))
        given = self.headers.get("Authorization")
        if repo is None or (repo.token and not repo.gated and given != f"Bearer {repo.token}"):
            bad = given is not None and repo is not None
            self._say(
                404 if given and not bad else 401,
                {"X-Error-Message": "Invalid credentials in Authorization header"}
                if bad
                else {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"},
            )
            return None
        if repo.gated and given != f"Bearer {repo.token}":
            self._say(403 if given else 401, {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted"})
            return None
        return repo

    def _revision(self, repo, revision):
        sha = repo.find(urllib.parse.unquote(revision))
        if sha is None:
            self._say(404, {"X-Error-Code": "RevisionNotFound", "X-Error-Message": f"Invalid rev id: {revision}"})
        return sha

    def _file(self, repo, sha, name):
        content = repo.commits[sha][0].get(name)
        if content is None:
            self._say(404, {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": sha})
        return content

    def _resolve(self, path):
        name, rest = path[1:].split("/resolve/", 1)
        kind = "datasets" if name.startswith("datasets/") else "models"
        name = name.removeprefix("datasets/")
        repo = self._repo(kind, name)
        revision, file = rest.split("/", 1)
        sha = repo and self._revision(repo, revision)
        file = urllib.parse.unquote(file)
        content = self._file(repo, sha, file) if sha else None
        if content is None:
            return
        if file in repo.commits[sha][1]:
            digest = hashlib.sha256(content).hexdigest()
            self.hub.content[digest] = content
            where = self.hub.redirect_to or f"{self.hub.storage}/blobs/{digest}?signature=secret"
            headers = {"X-Repo-Commit": sha, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": len(content),
                       "ETag": '"another"', "Location": where}
            self._say(302, {**headers, **self.hub.headers}, b"Found. Redirecting to storage")
        else:
            where = f"{self.hub.prefix}/api/resolve-cache/{kind}/{name}/{sha}/{urllib.parse.quote(file)}?{revision}"
            self._say(307, {"X-Repo-Commit": sha, "Location": where}, b"Temporary Redirect")

    def _small(self, kind, rest):
        parts = rest.split("/")
        at = next(i for i, part in enumerate(parts) if len(part) == 40)
        repo = self._repo(kind, "/".join(parts[:at]))
        content = repo and self._file(repo, parts[at], urllib.parse.unquote("/".join(parts[at + 1:])))
        if content is None:
            return
        headers = {"X-Repo-Commit": parts[at], "ETag": f'"{git_hash(content)}"', "Accept-Ranges": "bytes"}
        if self.hub.gzip:
            content, headers["Content-Encoding"] = gzip.compress(content), "gzip"
        self._say(200, {**headers, **self.hub.headers}, content)

    def _list(self, path):
        kind, rest = path.split("/", 1)
        way = "/revision/" if "/revision/" in rest else "/tree/"
        name, _, revision = rest.partition(way)
        repo = self._repo(kind, name)
        sha = repo and self._revision(repo, revision or "main")
        if not sha:
            return
        files, large = repo.commits[sha]
        if way == "/revision/" or not revision:
            names = [*files, *self.hub.extra_names]
            value = {"id": name, "sha": sha, "private": False, "siblings": [{"rfilename": n} for n in names]}
        else:
            value = [{"type": "file", "path": n, "size": len(c), "oid": git_hash(c)} for n, c in files.items()]
            for entry in value:
                content = files[entry["path"]]
                if entry["path"] in large:
                    entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        self._say(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _store(self, path):
        hub = self.hub
        content = hub.content.get(path.rsplit("/", 1)[1])
        if content is None:
            return self._say(403, {})
        whole, start, status, headers = len(content), 0, 200, {"ETag": '"of-the-storage"'}
        asked = self.headers.get("Range")
        if asked and not hub.ignore_ranges:
            start = int(asked.removeprefix("bytes=").split("-")[0])
            if start >= whole:
                return self._say(416, {"Content-Range": f"bytes */{whole}"})
            status = 206
            shown = 0 if hub.wrong_range else start
            headers["Content-Range"] = f"bytes {shown}-{whole - 1}/{whole}"
        body = content[start:]
        if hub.damage:
            body = bytes([body[0] ^ 1]) + body[1:]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if hub.endless:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self._body(body)

    def _body(self, body):
        """In pieces, slowly, cut off or without end, as asked."""
        hub = self.hub
        if self.command != "GET":
            return
        cut = hub.cuts.pop(0) if hub.cuts else None
        stall = hub.stalls.pop(0) if hub.stalls else None
        if cut is not None or stall is not None:
            body = body[: cut if stall is None else stall]
        if hub.slow:
            for at in range(0, len(body), 1 << 16):
                self.wfile.write(body[at : at + (1 << 16)])
                if hub.wait.wait(hub.slow):
                    break
        else:
            self.wfile.write(body)
        if stall is not None:
            hub.wait.wait(30)
            self.close_connection = True
        while hub.endless and not hub.wait.is_set():
            self.wfile.write(bytes(1 << 16))
        if cut is not None or hub.endless:
            self.close_connection = True
            self.connection.close()
