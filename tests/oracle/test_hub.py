"""Downloads from the Hub, held against the real huggingface_hub: both download from the same server (hub_server.py),
and each runs offline on what the other fetched. Then what a network, a server and a disk can do wrong."""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from hub_server import Hub, git_hash
from terminal import on_terminal

LARGE = random.Random(1).randbytes(3_000_000)
ID = "org/some-model.v1"


@pytest.fixture
def hub():
    with Hub() as made:
        yield made


@pytest.fixture
def home(tmp_path):
    """Folders of an own home: what HF_HOME would be is at .cache/huggingface below it."""
    return tmp_path / "home"


def environment(home, hub=None, **more):
    kept = {k: v for k, v in os.environ.items() if not k.upper().endswith("_PROXY") and not k.startswith(("HF_", "XDG_"))}
    kept |= {"HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
    if hub is not None:
        kept["HF_ENDPOINT"] = hub.endpoint
    return kept | more


@pytest.fixture
def ours(run, home, hub):
    """ours("download", ...): the command, with the server as its Hub and an own home."""

    def ours(*arguments, at=home, status=0, to=hub, **variables):
        done = run(*arguments, status=status, env=environment(at, to, **variables), timeout=60)
        return done.stdout.decode().splitlines() if status == 0 else done.stderr.decode()

    return ours


@pytest.fixture
def theirs(home, hub):
    """theirs([("hf_hub_download", (ID, FILE), {"revision": ...}), ...]): calls of the Python library, in one process of
    their own; what each returned."""

    def theirs(calls, at=home, to=hub, **variables):
        code = (
            "import huggingface_hub as h, json, sys\n"
            "for call, arguments, options in json.loads(sys.argv[1]): print(getattr(h, call)(*arguments, **options))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(calls)],
            env=environment(at, to, **variables), capture_output=True, timeout=120, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return theirs


def files_of(kind, name, wanted):
    return [("hf_hub_download", (name, f), {"revision": r, "repo_type": kind[:-1]}) for f, r in wanted]


def cache(home):
    return home / ".cache" / "huggingface" / "hub"


def tree(folder):
    """Each file below: its content, a link's target; a folder: None."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = None
        else:
            found[name] = ("file", b"" if name == "CACHEDIR.TAG" else path.read_bytes())
    return found


def no_final_names(home):
    """Nothing but incomplete files, and nothing that names one."""
    names = [p.name for p in cache(home).rglob("*") if p.is_file() and ".locks" not in p.parts]
    return all(n.endswith(".incomplete") or n == "CACHEDIR.TAG" for n in names)


def blob(home, content, repo="models--org--some-model.v1", end=""):
    return cache(home) / repo / "blobs" / (hashlib.sha256(content).hexdigest() + end)


FILES = {
    "config.json": b'{"a": 1}',
    "empty.txt": b"",
    "model.safetensors": LARGE,
    "deep/er/a file+1%.txt": b"inside folders",
    "deep/\u00e9.txt": b"not ASCII",
    "odd ?a=b&c#d+%2e%2e%2f.txt": b"what addresses have",
}


# ---- the same trees -----------------------------------------------------------------------------------------------------


def test_trees_are_equal(hub, ours, theirs, tmp_path):
    """Of models and data sets, with and without an organisation."""
    a, b = tmp_path / "a", tmp_path / "b"
    wanted = [(file, "main") for file in FILES] + [("config.json", "refs/pr/1")]
    repos = [(kind, name) for kind in ("models", "datasets") for name in (ID, "canonical")]

    def download(kind, name, file, revision, **how):
        kinds = ["--dataset"] if kind == "datasets" else []
        return ours("download", *kinds, name, file, "--revision", revision, **how)[0]

    for kind, name in repos:
        repo = hub.add(name, FILES, ["model.safetensors"], kind)
        repo.commit({**FILES, "config.json": kind.encode()}, ["model.safetensors"], "refs/pr/1")
        for file, revision in wanted:
            path = download(kind, name, file, revision, at=a)
            assert open(path, "rb").read() == repo.commits[repo.find(revision)][0][file]
    calls = [call for kind, name in repos for call in files_of(kind, name, wanted)]
    theirs(calls, at=b)
    assert tree(cache(a)) == tree(cache(b))
    # Each finds what the other brought, without a server.
    hub.requests.clear()
    assert len(theirs(calls, at=a, HF_HUB_OFFLINE="1")) == len(calls)
    for kind, name in repos:
        for file, revision in wanted:
            download(kind, name, file, revision, at=b, HF_HUB_OFFLINE="1")
    assert not hub.requests


def test_whole_repositories(hub, ours, theirs, tmp_path):
    repo = hub.add(ID, FILES, ["model.safetensors"])
    a, b = tmp_path / "a", tmp_path / "b"
    lines = [json.loads(line) for line in ours("download", ID, "--json", at=a)]
    assert {line["file"] for line in lines} == set(FILES) and {line["commit"] for line in lines} == {repo.find("main")}
    theirs([("snapshot_download", (ID,), {})], at=b)
    theirs_tree = {k: v for k, v in tree(cache(b)).items() if "/trees" not in k}  # a list of theirs, which we have no use for
    assert tree(cache(a)) == theirs_tree
    assert ours("download", ID, at=b, HF_HUB_OFFLINE="1") == sorted(
        line["path"].replace(str(a), str(b)) for line in lines
    )
    (folder,) = theirs([("snapshot_download", (ID,), {})], at=a, HF_HUB_OFFLINE="1")
    assert folder.endswith(repo.find("main"))


def test_what_is_there_is_not_transferred_again(hub, ours, theirs, home):
    repo = hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    theirs(files_of("models", ID, [("x.bin", "main")]))
    old = repo.find("main")
    hub.requests.clear()
    ours("download", ID, "x.bin")
    assert [r.method for r in hub.requests] == ["HEAD"]
    hub.requests.clear()
    ours("download", f"{ID}@{old}", "x.bin")  # a commit cannot change: not even asked for
    assert not hub.requests
    # A new commit, with the same bytes under another name.
    new = repo.commit({"y.bin": LARGE}, ["y.bin"])
    (path,) = ours("download", ID, "y.bin")
    assert new in path and not hub.asked("storage")
    assert (cache(home) / "models--org--some-model.v1" / "refs" / "main").read_text() == new


def test_files_of_one_commit(hub, ours):
    """The branch moves between two files: both are of the commit that the first is of."""
    repo = hub.add(ID, {"a": b"1", "b": b"1"})
    first = repo.find("main")
    hub.after = lambda request: "/a" in request.path and repo.commit({"a": b"2", "b": b"2"})
    paths = ours("download", ID, "a", "b")
    assert all(first in p and open(p).read() == "1" for p in paths) and repo.find("main") != first


# ---- models -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(golden):
    return {p.name: p.read_bytes() for p in (golden / "tiny").iterdir() if p.name in MODEL_FILES}


MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def test_an_id_is_a_model(hub, ours, theirs, model, tmp_path):
    repo = hub.add(ID, {**model, "README.md": b"not needed"}, ["model.safetensors"])
    repo.commit(model, ["model.safetensors"], "v2")
    told = json.loads(ours("info", "--json", ID)[0])
    assert repo.find("main") in told["source"]
    assert not hub.asked("hub", path="README")
    hub.requests.clear()
    ours("info", ID)
    assert len(hub.requests) == 1  # the list of files
    assert repo.find("v2") in json.loads(ours("info", "--json", ID + "@v2")[0])["source"]
    # Without a network, as it was last; and what the Python library fetched.
    hub.statuses = {f"/api/models/{ID}/revision/main": [503] * 9}
    ours("info", ID)
    ours("info", ID, HF_HUB_OFFLINE="1")
    hub.statuses = {}
    theirs([("snapshot_download", (ID,), {})], at=tmp_path / "b")
    hub.requests.clear()
    ours("info", ID, at=tmp_path / "b", HF_HUB_OFFLINE="1")
    assert not hub.requests


def test_a_path_wins(hub, ours, golden, model, run, home, tmp_path):
    hub.add("org/name", model, ["model.safetensors"])
    (tmp_path / "org").mkdir()
    shutil.copytree(golden / "tiny", tmp_path / "org" / "name")
    told = run("info", "--json", "org/name", env=environment(home, hub), cwd=tmp_path)
    assert json.loads(told.stdout)["source"].startswith("org/name/") and not hub.requests


def test_a_tokenizer_by_its_id(hub, ours, theirs, golden, model, tmp_path):
    """-t takes an id wherever it takes a folder, and brings the tokenizer alone."""
    folder = golden / "tokenizer/stories_1024"
    files = {p.name: p.read_bytes() for p in folder.iterdir() if p.name.startswith("tokenizer")}
    repo = hub.add("org/tokens", {**files, "model.safetensors": LARGE, "config.json": b"{}"}, ["model.safetensors"])
    repo.commit({"README.md": b""}, revision="empty")
    (tmp_path / "text").write_text("Once upon a time")
    encode = ["tokenizer", "encode", tmp_path / "text", "-t"]
    want = ours(*encode, folder)
    assert ours(*encode, "org/tokens") == want
    names = {r.path.split("/")[-1].split("?")[0] for r in hub.asked("hub", path="/resolve/")}
    assert names == set(files) and "tokenizer.json" in names and not hub.asked("storage")
    assert ours(*encode, f"org/tokens@{repo.find('main')}") == want
    said = ours(*encode, "org/tokens@empty", status=1)
    assert "org/tokens@empty: no such file or folder, and as a tokenizer of the Hub: " in said
    assert "org/tokens@empty holds no tokenizer: no tokenizer.json" in said
    assert "is private (401)" in ours(*encode, "org/none", status=1)
    ours("prepare", tmp_path / "text", "-t", "org/tokens", "-o", tmp_path / "data")
    assert (tmp_path / "data/tokenizer.json").read_bytes() == files["tokenizer.json"]
    # For a model; one that does not fit it is refused.
    hub.add(ID, model, ["model.safetensors"])
    assert "the tokenizer has 1024 tokens, the model 67" in ours("info", ID, "-t", "org/tokens", status=1)
    # Without a network, and from what the Python library fetched.
    hub.requests.clear()
    assert ours(*encode, "org/tokens", HF_HUB_OFFLINE="ON") == want
    theirs(files_of("models", "org/tokens", [(f, "main") for f in files]), at=tmp_path / "b")
    hub.requests.clear()
    assert ours(*encode, "org/tokens", at=tmp_path / "b", HF_HUB_OFFLINE="1") == want
    assert not hub.requests


def test_which_files_are_a_model(hub, ours):
    hub.add("a/none", {"README.md": b""})
    assert "neither model.safetensors nor final.pt" in ours("info", "a/none", status=1)
    hub.add("a/pt", {"final.pt": LARGE, "tokenizer.json": b"{}", "notes.txt": b""}, ["final.pt"])
    ours("info", "a/pt", status=1)  # no checkpoint, these bytes
    assert {r.path.split("/")[-1] for r in hub.asked("hub", "HEAD", "/resolve/")} == {"final.pt", "tokenizer.json"}


# ---- tokens ---------------------------------------------------------------------------------------------------------------


def test_a_token_goes_to_the_endpoint_alone(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE, "small": b"1"}, ["x.bin"], token="hf_secret")
    ours("download", ID, HF_TOKEN=" hf_secret\n")
    assert {r.headers.get("Authorization") for r in hub.asked("hub")} == {"Bearer hf_secret"}
    assert hub.asked("storage") and not any("uthorization" in k for r in hub.asked("storage") for k in r.headers)
    # A storage host that sends back to the Hub: the token is not sent there either, any more.
    shutil.rmtree(home)
    hub.requests.clear()
    hub.redirect_to = f"http://localhost:{hub.servers[0].server_address[1]}/{ID}/resolve/main/x.bin"
    ours("download", ID, "x.bin", HF_TOKEN="hf_secret", status=1)
    assert [r.headers.get("Authorization") for r in hub.requests][0] == "Bearer hf_secret"
    assert all(r.headers.get("Authorization") is None for r in hub.requests if r.headers["Host"].startswith("localhost"))


@pytest.mark.parametrize("where", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "default", "legacy"])
def test_where_tokens_are_read(hub, ours, home, tmp_path, where):
    hub.add(ID, {"a": b"1"}, token="hf_secret")
    file, more = tmp_path / "token", {}
    if where in ("HF_TOKEN", "legacy"):
        more = {"HF_TOKEN" if where == "HF_TOKEN" else "HUGGING_FACE_HUB_TOKEN": "hf_secret"}
    elif where == "HF_TOKEN_PATH":
        more = {"HF_TOKEN_PATH": str(file)}
    elif where == "HF_HOME":
        more = {"HF_HOME": str(tmp_path)}
    else:
        file = home / ".cache" / "huggingface" / "token"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("hf_secret\n")
    ours("download", ID, "a", **more)
    assert "is no printable ASCII" in ours("download", ID, "a", status=2, HF_TOKEN="a\nHost: b")
    shutil.rmtree(cache(home), ignore_errors=True)
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    ours("download", ID, "a", status=1, HF_HUB_DISABLE_IMPLICIT_TOKEN="1", **more)


@pytest.mark.parametrize(
    "variables",
    [{"HF_HOME": "~/x"}, {"HF_HUB_CACHE": "${HOME}/y/$SUB"}, {"XDG_CACHE_HOME": "/$HOME/z"}, {"HUGGINGFACE_HUB_CACHE": "~/w"}, {}],
)
def test_where_the_cache_is(hub, ours, home, variables):
    hub.add(ID, {"a": b"1"})
    variables = {**variables, "SUB": "sub"}
    (path,) = ours("download", ID, "a", **variables)
    code = "import huggingface_hub as h; print(h.hf_hub_download('%s', 'a'))" % ID
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home, hub, HF_HUB_OFFLINE="1", **variables), capture_output=True, text=True
    )
    assert os.path.realpath(done.stdout.strip()) == os.path.realpath(path), done.stderr


# ---- transfers that break off -----------------------------------------------------------------------------------------------


def test_a_cut_is_resumed_at_once(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.cuts = [1_000_000, 500_000]
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE
    assert [r.headers.get("Range") for r in hub.asked("storage")] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_cut_is_resumed_by_the_next_run(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.cuts = [1_000_000] + [0] * 20
    said = ours("download", ID, "x.bin", status=1)
    assert "x.bin broke off after 1000000 of 3000000 bytes, which the next try goes on from" in said
    assert no_final_names(home) and blob(home, LARGE, end=".incomplete").stat().st_size == 1_000_000
    hub.cuts, hub.requests[:] = [], []
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE
    assert [r.headers.get("Range") for r in hub.asked("storage")] == ["bytes=1000000-"]
    assert not list(cache(home).rglob("*.incomplete"))


def test_a_small_file_is_resumed(hub, ours, home):
    """Of a server that knows no ranges the whole is taken."""
    hub.add(ID, {"a": b"0123456789"})
    folder = cache(home) / "models--org--some-model.v1" / "blobs"
    folder.mkdir(parents=True)
    (folder / (git_hash(b"0123456789") + ".incomplete")).write_bytes(b"0123")
    (path,) = ours("download", ID, "a")
    assert open(path, "rb").read() == b"0123456789"


@pytest.mark.parametrize("fault", ["ignore_ranges", "wrong_range"])
def test_servers_without_ranges(hub, ours, home, fault):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    setattr(hub, fault, True)
    hub.cuts = [1_000_000]
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE


@pytest.mark.parametrize("left", [b"wrong" * 1000, LARGE[:-1] + b"x", LARGE + b"x"])
def test_wrong_bytes_that_were_left(hub, ours, home, left):
    """What is resumed and does not fit is thrown away, and the file fetched as a whole."""
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    part = blob(home, LARGE, end=".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE


def test_a_range_that_the_storage_has_not(hub, ours, home):
    """416: what is there is thrown away."""
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    part = blob(home, LARGE, end=".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(LARGE[:1_000_000])
    hub.statuses = {"storage": [416]}
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE
    assert [r.headers.get("Range") for r in hub.asked("storage")] == ["bytes=1000000-", None]


def test_a_body_that_stands_still(hub, ours):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.stalls = [1_000_000]
    (path,) = ours("download", ID, "x.bin", HF_HUB_DOWNLOAD_TIMEOUT="1")
    assert open(path, "rb").read() == LARGE
    assert [r.headers.get("Range") for r in hub.asked("storage")] == [None, "bytes=1000000-"]


def test_a_hub_in_trouble(hub, ours, home):
    """Asked four times; not so when the file is there as it was, and nothing is asked twice that is certain."""
    hub.add(ID, {"a": b"1"})
    at, listing = f"/{ID}/resolve/main/a", f"/api/models/{ID}/revision/main"
    hub.statuses = {at: [429, 503], listing: [500, 504, 502]}
    ours("download", ID, "a")
    shutil.rmtree(home)
    ours("download", ID)
    assert [len(hub.asked("hub", path=p)) for p in (at, listing)] == [3, 4]
    hub.requests.clear()
    hub.statuses = {at: [503] * 9}
    ours("download", ID, "a")
    assert len(hub.requests) == 1
    shutil.rmtree(home)
    hub.requests.clear()
    assert "127.0.0.1 has a fault of its own (503); try later" in ours("download", ID, "a", status=1)
    assert len(hub.requests) == 4
    hub.requests.clear()
    hub.statuses = {at: [501]}
    ours("download", ID, "a", status=1)
    assert len(hub.requests) == 1


def test_an_address_that_expired(hub, ours):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.statuses = {"storage": [403, 503]}
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE
    assert len(hub.asked("hub", "HEAD")) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_download_that_is_stopped(hub, ours, program, home, number):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.slow = 0.1
    process = subprocess.Popen(
        [program, "download", ID, "x.bin"], env=environment(home, hub), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    part = blob(home, LARGE, end=".incomplete")
    for _ in range(200):
        if part.exists() and part.stat().st_size > 0:
            break
        time.sleep(0.05)
    process.send_signal(number)
    out, said = process.communicate(timeout=20)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number) and not out
    assert number == signal.SIGKILL or b"the same command goes on from here" in said
    assert no_final_names(home) and 0 < part.stat().st_size < len(LARGE)
    hub.slow = 0
    hub.requests.clear()
    (path,) = ours("download", ID, "x.bin")
    assert open(path, "rb").read() == LARGE and hub.asked("storage")[0].headers.get("Range") is not None


def test_progress_on_a_terminal(hub, program, home):
    """Of what is still to come: the name, a bar, how fast, how long; Ctrl-C stops it, and --quiet shows nothing."""
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.slow = 0.03
    there = environment(home, hub)
    ran = on_terminal(program, "download", ID, "x.bin", columns=300, interrupt_at="x.bin  ", **there)
    assert ran.status == 130 and b"the same command goes on from here" in ran.sent
    ran = on_terminal(program, "download", ID, "x.bin", columns=300, **there)
    assert ran.status == 0 and b" a second, " in ran.sent and b"% " in ran.sent
    ran.screen(300, 24)  # no control characters but those that redraw
    shutil.rmtree(home)
    ran = on_terminal(program, "download", ID, "x.bin", "--quiet", columns=300, **there)
    assert ran.status == 0 and len(ran.sent.splitlines()) == 1


def test_a_mirror(hub, ours):
    """An endpoint that only redirects to the Hub; the token of the mirror does not go there."""
    hub.add(ID, {"x.bin": LARGE, "a": b"1"}, ["x.bin"])
    with Hub() as mirror:
        mirror.add(ID, {"x.bin": LARGE, "a": b"1"}, ["x.bin", "a"])
        mirror.headers = {"X-Repo-Commit": None, "X-Linked-Etag": None, "X-Linked-Size": None}
        for file in ("x.bin", "a"):
            mirror.redirect_to = f"{hub.endpoint}/{ID}/resolve/main/{file}"
            (path,) = ours("download", ID, file, to=mirror, HF_TOKEN="hf_secret")
            assert open(path, "rb").read() == hub.repos["models", ID].commits[path.split("/")[-2]][0][file]
    assert hub.requests and not any("uthorization" in k for r in hub.requests for k in r.headers)


def test_two_at_once_download_once(hub, ours, theirs, home):
    """Two of ours and one of theirs: the lock is the same."""
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.slow = 0.02
    with concurrent.futures.ThreadPoolExecutor() as pool:
        calls = [pool.submit(ours, "download", ID, "x.bin") for _ in range(2)]
        calls.append(pool.submit(theirs, files_of("models", ID, [("x.bin", "main")])))
        paths = {c.result()[0] for c in calls}
    assert len(paths) == 1 and open(paths.pop(), "rb").read() == LARGE
    assert len(hub.asked("storage", "GET")) == 1


# ---- what a disk can do wrong -----------------------------------------------------------------------------------------------


def test_a_full_disk(hub, run, home):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = run("download", ID, "x.bin", status=1, env=environment(home, hub), preexec_fn=limit)
    said = done.stderr.decode()
    assert "x.bin: no room for it; 1000000 of 3000000 bytes stay for the next try" in said and "File too large" in said
    assert no_final_names(home)
    hub.requests.clear()
    run("download", ID, "x.bin", env=environment(home, hub))
    assert [r.headers.get("Range") for r in hub.asked("storage")] == ["bytes=1000000-"]


def test_no_room_is_seen_before(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.headers = {"X-Linked-Size": 1 << 56}
    assert "x.bin: no room for it: 72057594037927936 bytes are to come" in ours("download", ID, "x.bin", status=1)
    assert not hub.asked("storage") and no_final_names(home)


def test_a_cache_that_cannot_be_written(hub, ours, home):
    hub.add(ID, {"a": b"1"})
    cache(home).parent.mkdir(parents=True)
    cache(home).write_text("a file")
    assert str(cache(home)) in ours("download", ID, "a", status=1)


# ---- what a network can do wrong --------------------------------------------------------------------------------------------


def test_a_cache_of_another_user(hub, program, model):
    """What is in it can be used, without a network and with; what is not, not put there. In a folder of its own, since
    others may not look into those of pytest."""
    hub.add(ID, {**model, "more": b"1"}, ["model.safetensors"])
    with tempfile.TemporaryDirectory() as folder:
        home, run_as = pathlib.Path(folder), {}
        os.chmod(folder, 0o755)
        subprocess.run([program, "info", ID], env=environment(home, hub), check=True, capture_output=True)
        if os.getuid() == 0:
            run_as = {"user": 65534, "group": 65534}
            copy = shutil.copy(program, home / "program")  # which may lie where others cannot look, too
        else:
            copy = program
            for path in home.rglob("*"):
                path.chmod(path.stat().st_mode & ~0o222) if not path.is_symlink() else None

        def ran(*arguments, **variables):
            done = subprocess.run([copy, *arguments], env=environment(home, hub, **variables), capture_output=True, **run_as)
            return done.returncode, done.stderr.decode()

        assert ran("info", ID)[0] == 0 and ran("info", ID, HF_HUB_OFFLINE="1")[0] == 0
        status, said = ran("download", ID, "more")
        assert status == 1 and "Permission denied" in said and str(cache(home)) in said
        for path in home.rglob("*"):
            path.chmod(0o755) if path.is_dir() else None


def test_no_network(hub, ours, home):
    hub.add(ID, {"a": b"1"})
    dead = type("Dead", (), {"endpoint": "http://127.0.0.1:9"})
    assert "127.0.0.1:9 cannot be reached" in ours("download", ID, "a", status=1, to=dead)
    nowhere = type("Nowhere", (), {"endpoint": "https://nowhere.invalid"})
    said = ours("download", ID, "a", status=1, to=nowhere)
    assert "nowhere.invalid is not found" in said or "nowhere.invalid does not answer" in said  # where DNS is slow
    said = ours("info", ID, status=1, to=dead)
    assert f"{ID}: no such file or folder, and as a model of the Hub: 127.0.0.1:9 cannot be reached" in said
    # What was downloaded before is there without a network.
    (path,) = ours("download", ID, "a")
    assert ours("download", ID, "a", to=dead) == [path] == ours("download", ID, to=dead)


@pytest.mark.parametrize("fault", ["stall", "trickle"])
def test_a_server_that_does_not_answer(hub, ours, fault):
    hub.add(ID, {"a": b"1"})
    setattr(hub, fault, True)
    assert "does not answer" in ours("download", ID, "a", status=1, HF_HUB_ETAG_TIMEOUT="1")


def test_an_endpoint_with_a_path(hub, ours, theirs, tmp_path):
    hub.add(ID, {"x.bin": LARGE, "a": b"1"}, ["x.bin"], token="hf_secret")
    hub.prefix = "/mirrors/hf"
    to = type("Prefixed", (), {"endpoint": hub.endpoint + "/mirrors/hf//"})
    assert len(ours("download", ID, at=tmp_path / "a", to=to, HF_TOKEN="hf_secret")) == 2
    theirs(files_of("models", ID, [("x.bin", "main"), ("a", "main")]), at=tmp_path / "b", to=to, HF_TOKEN="hf_secret")
    assert tree(cache(tmp_path / "a")) == tree(cache(tmp_path / "b"))


def test_proxies(hub, ours):
    """A host that is only known to the proxy; one that no_proxy names is asked itself."""
    hub.add(ID, {"a": b"1"})
    nowhere = type("Nowhere", (), {"endpoint": "http://hub.invalid"})
    ours("download", ID, "a", to=nowhere, http_proxy=hub.endpoint)
    assert {r.headers["Host"] for r in hub.requests} == {"hub.invalid"}
    dead = {"http_proxy": "http://127.0.0.1:9"}
    ours("download", ID, "a", no_proxy="127.0.0.1", **dead)
    assert "cannot be reached" in ours("download", ID + "@other", "a", status=1, **dead)


def test_kinds_of_hashes(hub, ours, theirs, tmp_path):
    """Weak ETags are what they are without the mark, as for the Python library."""
    hub.add(ID, {"a": b"12345"})
    hub.headers = {"ETag": f'W/"{git_hash(b"12345")}"'}
    ours("download", ID, "a", at=tmp_path / "a")
    theirs(files_of("models", ID, [("a", "main")]), at=tmp_path / "b")
    assert tree(cache(tmp_path / "a")) == tree(cache(tmp_path / "b"))


def test_bodies_that_were_compressed_on_the_way(hub, ours, home):
    hub.add(ID, {"a": b"12345" * 100})
    hub.gzip = True
    assert "a: what came has the hash" in ours("download", ID, "a", status=1)
    assert no_final_names(home)


def test_offline(hub, ours, home):
    hub.add(ID, {"a": b"1"})
    said = ours("download", ID, "a", status=1, HF_HUB_OFFLINE="1")
    assert f"a of {ID}@main is not in the cache {cache(home)}, and HF_HUB_OFFLINE is set" in said
    assert "is not in the cache" in ours("download", ID, status=1, HF_HUB_OFFLINE="yes")
    assert "HF_HUB_OFFLINE is set" in ours("info", "some-name", status=1, HF_HUB_OFFLINE="TRUE")
    assert not hub.requests


def test_statuses(hub, ours):
    hub.add(ID, {"a": b"1"})
    hub.add("org/private", {"a": b"1"}, token="hf_secret")
    hub.add("org/gated", {"a": b"1"}, token="hf_secret", gated=True)
    at = f"/{ID}/resolve/main/a"

    def said(*arguments, **variables):
        return ours("download", *arguments, status=1, **variables)

    assert f"{ID} has no file 'b' at revision 'main' on 127.0.0.1 (404)" in said(ID, "b")
    assert f"{ID} has no revision 'v9' on 127.0.0.1 (404)" in said(ID, "a", "--revision", "v9")
    assert f"{ID} has no revision 'v9'" in said(ID + "@v9")
    assert "org/none does not exist on 127.0.0.1, or is private (401)" in said("org/none", "a")
    assert "there is no model 'org/none' on 127.0.0.1 (404)" in said("org/none", HF_TOKEN="hf_any")
    assert "there is no dataset 'org/none'" in said("--dataset", "org/none", "a", HF_TOKEN="hf_any")
    assert "org/private does not exist on 127.0.0.1, or is private (401)" in said("org/private", "a")
    assert "does not accept the token" in said("org/private", "a", HF_TOKEN="hf_wrong")
    assert f"org/gated is gated (401): accept its conditions at {hub.endpoint}/org/gated" in said("org/gated", "a")
    assert "org/gated is gated (403)" in said("org/gated", HF_TOKEN="hf_wrong")
    for status, text in [
        (403, "forbids it (403)"),
        (429, "too many requests (429)"),
        (500, "has a fault of its own (500)"),
        (418, "status 418"),
        (404, "(404)"),
    ]:
        hub.statuses = {at: [status] * 4}
        assert text in said(ID, "a")
    # A model's files are not there any more: those that are in the cache are no substitute.
    hub.statuses = {}
    ours("download", ID, "a")
    hub.repos["models", ID].commit({})
    assert "has no file 'a'" in said(ID, "a")


# ---- what a server can do wrong on purpose ----------------------------------------------------------------------------------


def test_a_wrong_hash(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE, "a": b"12345"}, ["x.bin"])
    hub.damage = True
    assert "x.bin: what came has the hash" in ours("download", ID, "x.bin", status=1)
    assert not list(cache(home).rglob("*.incomplete")) and no_final_names(home)
    hub.headers = {"ETag": '"' + "0" * 40 + '"'}
    assert "a: what came has the hash" in ours("download", ID, "a", status=1)
    assert no_final_names(home)


@pytest.mark.parametrize(
    "headers, text",
    [
        ({"X-Repo-Commit": "../../../../evil"}, "names no commit"),
        ({"X-Repo-Commit": "/" + "a" * 39}, "names no commit"),
        ({"X-Repo-Commit": None}, "names no commit"),
        ({"X-Linked-Etag": '"../../evil"'}, "names no hash"),
        ({"X-Linked-Etag": "a" * 63 + "/"}, "names no hash"),
        ({"X-Linked-Etag": "a" * 100_0}, "names no hash"),
        ({"Location": "file:///etc/passwd"}, "is not https and not followed"),
        ({"Location": None}, "without an address"),
        ({"Location": "https://user:word@127.0.0.1/"}, "without an address"),
        ({"Location": "x" * 9000}, "without an address"),
        ({"X-Linked-Size": 10}, "sends more than the 10 bytes"),
        ({"X-Linked-Size": "1e9", "Content-Length": 0}, None),
    ],
)
def test_hostile_headers(hub, ours, home, headers, text):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.headers = headers
    if text is None:
        ours("download", ID, "x.bin")
        return
    assert text in ours("download", ID, "x.bin", status=1)
    assert no_final_names(home) and not (home.parent / "evil").exists()


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "a//b", "", ".", "a\\b", "a\nb", "b\u009b1m", "x" * 300])
def test_hostile_names(hub, ours, home, name):
    hub.add(ID, {"a": b"1"})
    hub.extra_names = [name]
    assert "refused, it may leave its folder" in ours("download", ID, status=1)
    assert not hub.asked("hub", path="/resolve/") and not cache(home).exists()
    if name and "\n" not in name:
        assert "is no name of a file in a repository" in ours("download", ID, name, status=2)


def test_redirects_without_end(hub, ours):
    hub.add(ID, {"a": b"1"})
    hub.add("org/loop", {"x.bin": LARGE}, ["x.bin"])
    hub.redirect_to = f"{hub.endpoint}/org/loop/resolve/main/x.bin"
    assert "redirects more than 10 times" in ours("download", "org/loop", "x.bin", status=1)
    assert len(hub.requests) == 11


def test_bodies_without_end(hub, ours, home):
    hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
    hub.endless = True
    assert "sends more than the 3000000 bytes" in ours("download", ID, "x.bin", status=1)
    hub.headers = {"X-Linked-Size": None}
    assert "sends more than the 67108864 bytes" in ours("download", ID, "x.bin", status=1)
    assert no_final_names(home)


def test_bad_arguments(hub, ours):
    for name in ["a/b/c", "a--b", "a..b", "a.git", "-a", "a/", "", "a b", "datasets/a/b", "\u00e9", "a@", "a@../x", "a@/x", "x" * 97]:
        ours("download", "--", name, status=2) if name.startswith("-") else ours("download", name, status=2)
    assert "names one revision" in ours("download", ID + "@x", "--revision", "y", status=2)
    for endpoint in ["ftp://x", "huggingface.co", "https://", "http://u:p@x"]:
        assert "HF_ENDPOINT" in ours("download", ID, status=2, to=type("X", (), {"endpoint": endpoint}))
    assert not hub.requests


# ---- https --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificate")
    made = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2",
         "-addext", "subjectAltName=IP:127.0.0.1", "-out", made[0], "-keyout", made[1]],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


def test_https(ours, home, certificate):
    with Hub(certificate) as hub:
        hub.add(ID, {"x.bin": LARGE}, ["x.bin"])
        assert "cannot be trusted" in ours("download", ID, "x.bin", status=1, to=hub, SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt")
        assert no_final_names(home)
        (path,) = ours("download", ID, "x.bin", to=hub, SSL_CERT_FILE=str(certificate[0]))
        assert open(path, "rb").read() == LARGE
        shutil.rmtree(home)
        with Hub() as plain:
            # From http to https of the same host: the token stays behind.
            plain.add(ID, {"x.bin": LARGE}, ["x.bin"])
            plain.redirect_to = f"{hub.endpoint}/{ID}/resolve/main/x.bin"
            hub.requests.clear()
            ours("download", ID, "x.bin", to=plain, HF_TOKEN="hf_secret", SSL_CERT_FILE=str(certificate[0]))
            assert plain.requests[0].headers["Authorization"] == "Bearer hf_secret"
            assert hub.requests and not any("uthorization" in k for r in hub.requests for k in r.headers)
            shutil.rmtree(home)
            plain.requests.clear()
            hub.redirect_to = plain.storage + "/blobs/x"
            said = ours("download", ID, "x.bin", status=1, to=hub, SSL_CERT_FILE=str(certificate[0]))
            assert "which is not https and not followed" in said and not plain.requests
