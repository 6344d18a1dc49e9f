"""Downloads from the Hub, held against the real huggingface_hub: both download from the same server (hub_server.py),
and each runs offline on what the other fetched; models and tokens. What breaks off, and what disks, networks and servers do
wrong, is in test_hub_transfers.py and test_hub_network.py."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from hub_support import FILES, ID, LARGE, cache, environment, files_of, tree

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
