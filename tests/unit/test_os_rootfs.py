"""The root file system of the os task: built whole or not at all, out of packages and nothing else."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agenttuning.environments.os_interaction import __main__, installed, rootfs
from agenttuning.environments.os_interaction.sandbox import id_map
from agenttuning.errors import UserError
from helpers.os_machine import bash, machine, tree

MMDEBSTRAP = """#!{python} -S
import io, json, sys, tarfile
open({calls!r}, "a").write(json.dumps(sys.argv[1:]) + "\\n")
if "bad-mirror" in sys.argv:
    print("E: cannot reach bad-mirror"); sys.exit(25)
archive = next(word for word in sys.argv[1:] if word.endswith(".tar"))
with tarfile.open(archive, "w") as tar:
    for name in ("./usr", "./root", "./etc", "./dev"):
        entry = tarfile.TarInfo(name); entry.type = tarfile.DIRTYPE; entry.mode = 0o755; tar.addfile(entry)
    for name, mode, owner in (("./usr/sudo", 0o4755, 0), ("./etc/shadow", 0o640, 0)):
        entry = tarfile.TarInfo(name); entry.mode = mode; entry.uid = owner; entry.gid = 0; entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    entry = tarfile.TarInfo("./dev/null"); entry.type = tarfile.CHRTYPE; entry.devmajor, entry.devminor = 1, 3
    tar.addfile(entry)
"""


@pytest.fixture
def mmdebstrap(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "mmdebstrap"
    program.write_text(MMDEBSTRAP.format(python=sys.executable, calls=str(tmp_path / "calls")))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "calls"


def test_debian_is_asked_for_once_and_owned_by_the_sandboxes(tmp_path, mmdebstrap):
    built = rootfs.build(tmp_path / "tree")
    assert rootfs.build(tmp_path / "tree") == built
    [call] = [json.loads(line) for line in mmdebstrap.read_text().splitlines()]
    include = next(word for word in call if word.startswith("--include=")).removeprefix("--include=").split(",")
    assert set(rootfs.NEEDED + rootfs.WANTED) == set(include)
    assert all(
        Path(word).parent in (Path("/etc/apt"), Path("/etc/apt/sources.list.d"))
        for word in call[call.index(next(w for w in call if w.endswith(".tar"))) + 1 :]
    )  # noqa: E501
    found = {path: path.lstat() for path in built.root.rglob("*")}
    assert {entry.st_uid for entry in found.values()} == {id_map()[0]}
    assert (built.root / "usr" / "sudo").stat().st_mode & 0o7777 == 0o4755
    assert not (built.root / "dev" / "null").exists()
    assert "PS1" in (built.root / "root" / ".bashrc").read_text()
    manifest = json.loads((tmp_path / "tree" / "manifest.json").read_text())
    assert (manifest["source"], manifest["ids"], manifest["version"]) == ("debian", list(id_map()), rootfs.VERSION)
    assert not list((tmp_path / "tree").glob("*.tar"))


def test_several_builders_make_one(tmp_path, mmdebstrap):
    with ThreadPoolExecutor(3) as pool:
        built = list(pool.map(lambda _: rootfs.build(tmp_path / "tree"), range(3)))
    assert built == [built[0]] * 3
    assert len(mmdebstrap.read_text().splitlines()) == 1


def test_a_build_that_fails_leaves_nothing(tmp_path, mmdebstrap, capsys):
    folder = tmp_path / "cache" / "tree"
    assert __main__.main([str(folder), "--mirror", "bad-mirror"]) == 2
    said = capsys.readouterr().err
    assert "cannot reach bad-mirror" in said
    assert "--source host" in said
    assert [path.name for path in folder.parent.iterdir()] == ["tree.lock"]
    assert __main__.main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "root")


def test_an_old_or_torn_tree_is_built_anew_and_a_foreign_one_refused(tmp_path, mmdebstrap):
    folder = tmp_path / "tree"
    rootfs.build(folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 0}))
    assert rootfs.find(folder) is None
    rootfs.build(folder)
    (folder / "manifest.json").write_text('{"version"')
    assert rootfs.find(folder) is None
    rootfs.build(folder)
    assert len(mmdebstrap.read_text().splitlines()) == 3
    (folder / "manifest.json").write_text(json.dumps({**manifest, "ids": [7, 1]}))
    with pytest.raises(UserError, match=r"belongs to ids \[7, 1\]"):
        rootfs.find(folder)


def test_without_mmdebstrap_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="make system-packages"):
        rootfs.build(tmp_path / "tree")


def test_this_machines_packages_make_a_whole_system():
    with machine() as box:
        said = bash(
            box, "awk 'BEGIN { print 1 }'; python3 -c 'import json, sqlite3; print(2)'; echo 3 | sed s/3/4/; id -un"
        )
        assert said.split() == ["1", "2", "4", "root"]
        assert (
            bash(
                box,
                "for t in find grep ps tar useradd getent du nothing; do command -v $t > /dev/null || echo $t; done",
            )
            == "nothing"
        )  # noqa: E501
        assert bash(box, "touch /usr/local/bin/x && ls -d /home /opt /srv /var/log /tmp | wc -l") == "5"


def test_nothing_of_the_machine_itself_gets_in():
    root = tree() / "root"
    assert not (root / "etc" / "shadow").read_text().startswith("root:$")
    assert "root:*:" in (root / "etc" / "shadow").read_text()
    assert [path.name for path in (root / "root").iterdir()] in ([".bashrc", ".profile"], [".profile", ".bashrc"])
    for name in ("etc/ssh", "etc/machine-id", "etc/hostname", "etc/resolv.conf", "etc/apt/auth.conf.d", "proc/1"):
        assert not (root / name).exists()
    packed = {
        path.lstrip("/")
        for path in installed._files(json.loads((tree() / "manifest.json").read_text())["packages"], ())
    }
    made = {path for path, _, _ in installed._made()} | {"root/.bashrc", "usr/bin/sh", "usr/bin/awk"}
    for folder in ("etc", "usr", "var"):
        for path in (root / folder).rglob("*"):
            name = str(path.relative_to(root))
            known = name in packed or name in made or name.startswith(("etc/alternatives", "usr/local"))
            assert (
                known or path.is_dir() or (path.is_symlink() and str(path.readlink()).startswith("/etc/alternatives"))
            ), name


def test_a_changed_configuration_file_is_left_out(monkeypatch, tmp_path):
    import subprocess

    file = tmp_path / "secret.conf"
    file.write_text("password")
    listing = f" {file} 00000000000000000000000000000000\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, stdout=listing))
    assert installed._changed() == {str(file)}


def test_dependencies_are_followed_through_alternatives_and_virtual_packages(monkeypatch):
    known = {"a": [["b", "c"], ["virtual"]], "c": [], "virtual": [["d"]], "d": [["a"]], "e": []}
    monkeypatch.setattr(installed, "_installed", lambda: known)
    assert set(installed.closure(["a"], ["missing"])) == {"a", "c", "virtual", "d"}
    with pytest.raises(UserError, match="not installed here as Debian packages"):
        installed.closure(["nothing"], [])


def test_an_archive_that_is_none(tmp_path):
    from io import BytesIO

    (tmp_path / "tree").mkdir()
    if id_map()[1] > 1:
        os.chown(tmp_path / "tree", id_map()[0], id_map()[0])
    with pytest.raises(UserError, match="could not be unpacked"):
        rootfs.unpack(BytesIO(b"not a tar" * 1000), tmp_path / "tree")
