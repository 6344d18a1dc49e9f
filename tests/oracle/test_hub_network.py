"""Downloads when networks and servers do wrong, some on purpose; proxies; https."""

import os
import pathlib
import shutil
import subprocess
import tempfile

import pytest
from hub_server import Hub, git_hash
from hub_support import ID, LARGE, cache, environment, files_of, no_final_names, tree

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
