"""Downloads from a server that behaves as the Hub when transfers break off, and when disks are full or of others."""

import concurrent.futures
import resource
import shutil
import signal
import subprocess
import time

import pytest
from hub_server import Hub, git_hash
from hub_support import ID, LARGE, blob, cache, environment, files_of, no_final_names
from terminal import on_terminal

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
