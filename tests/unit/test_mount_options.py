"""-v, --mount and --tmpfs, with docker 20.10's messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minidock.errors import UsageError
from minidock.formats.mountpoint import mount_point_document, volume_point_document
from minidock.formats.mountspec import (
    BindRequest,
    TmpfsRequest,
    VolumeRequest,
    clean_path,
    parse_mount,
    parse_size,
    parse_tmpfs,
    parse_volume,
    split_fields,
)


@pytest.mark.parametrize(
    ("text", "source", "target", "read_only", "propagation"),
    [
        ("/h:/c", "/h", "/c", False, "rprivate"),
        ("/h:/c:ro", "/h", "/c", True, "rprivate"),
        ("/h:/c:rw,z", "/h", "/c", False, "rprivate"),
        ("/h:/c:Z", "/h", "/c", False, "rprivate"),
        ("/h:/c:ro,z,rshared", "/h", "/c", True, "rshared"),
        ("/h:/c:rslave", "/h", "/c", False, "rslave"),
        ("/h//x/../y:/c/./d/", "/h/y", "/c/d", False, "rprivate"),
        ("/:/host", "/", "/host", False, "rprivate"),
    ],
)
def test_volume(text: str, source: str, target: str, read_only: bool, propagation: str) -> None:
    bind = parse_volume(text)
    assert isinstance(bind, BindRequest)
    assert (bind.source, bind.target, bind.read_only, bind.propagation) == (source, target, read_only, propagation)
    assert bind.creates_source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/h:/", "destination can't be '/'"),
        ("/h:/..", "destination can't be '/'"),
        ("/h:c", "invalid mount path: 'c' mount path must be absolute"),
        ("/h:/c:bad", "invalid mode: bad"),
        ("/h:/c:ro,rw", "invalid mode: ro,rw"),
        ("/h:/c:shared,rslave", "invalid mode"),
        ("rel/x:/y", "use absolute path"),
        ("./x:/y", "use absolute path"),
        ("", "invalid volume specification"),
        (":/c", "invalid volume specification"),
        ("/a:/b:ro:x", "invalid volume specification"),
        ("v:/d", "volume name is too short"),
        ("-v:/d", "includes invalid characters for a local volume name"),
        ("vol:d", "mount path must be absolute"),
        ("vol:/", "destination can't be '/'"),
        ("vol:/d:rshared", "field BindOptions must not be specified"),
        ("/d:ro", "invalid volume specification: '/d:ro'"),
        ("/", "destination can't be '/'"),
        ("n" * 256 + ":/d", "longer than 255"),
    ],
)
def test_volume_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=".*") as caught:
        parse_volume(text)
    assert message in str(caught.value)


def test_volume_point_is_docker_s() -> None:
    # As dockerd 20.10 wrote for -v nc:/data2:nocopy, -v /anon and the --mount below
    named = parse_volume("nc:/data2:nocopy")
    assert isinstance(named, VolumeRequest)
    assert not named.copies
    assert volume_point_document(named, "nc", "/r/volumes/nc/_data") == {
        "Source": "/r/volumes/nc/_data",
        "Destination": "/data2",
        "RW": True,
        "Name": "nc",
        "Driver": "local",
        "Type": "volume",
        "Relabel": "nocopy",
        "Spec": {"Type": "volume", "Source": "nc", "Target": "/data2", "VolumeOptions": {"NoCopy": True}},
        "SkipMountpointCreation": False,
    }
    plain = parse_volume("/anon/../anon/")
    assert isinstance(plain, VolumeRequest)
    assert volume_point_document(plain, "0" * 64, "/r") == {
        "Source": "",
        "Destination": "/anon",
        "RW": True,
        "Name": "0" * 64,
        "Driver": "local",
        "Type": "volume",
        "Spec": {},
        "SkipMountpointCreation": False,
    }
    mount = parse_mount("src=v6,dst=/m6,readonly,volume-nocopy,volume-label=x=y,volume-driver=local")
    assert isinstance(mount, VolumeRequest)
    document = volume_point_document(mount, "v6", "/r/volumes/v6/_data", from_mount_flag=True)
    assert (document["RW"], document["Relabel"]) == (False, "z")
    assert (
        document["Spec"]
        == mount.spec_document()
        == {
            "Type": "volume",
            "Source": "v6",
            "Target": "/m6",
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True, "Labels": {"x": "y"}, "DriverConfig": {"Name": "local"}},
        }
    )


def test_mount_bind() -> None:
    bind = parse_mount("type=bind,src=/etc,dst=/etc2,readonly,bind-propagation=rslave,bind-nonrecursive=true")
    assert isinstance(bind, BindRequest)
    assert (bind.source, bind.target, bind.read_only, bind.propagation) == ("/etc", "/etc2", True, "rslave")
    assert not bind.recursive
    assert not bind.creates_source
    assert mount_point_document(bind, from_mount_flag=True)["Spec"] == {
        "Type": "bind",
        "Source": "/etc",
        "Target": "/etc2",
        "ReadOnly": True,
        "BindOptions": {"Propagation": "rslave", "NonRecursive": True},
    }


def test_mount_point_is_docker_s() -> None:
    # As dockerd 20.10 wrote for -v /tmp:/mnt:ro
    bind = parse_volume("/tmp:/mnt:ro")
    assert isinstance(bind, BindRequest)
    assert mount_point_document(bind, from_mount_flag=False) == {
        "Source": "/tmp",
        "Destination": "/mnt",
        "RW": False,
        "Name": "",
        "Driver": "",
        "Type": "bind",
        "Relabel": "ro",
        "Propagation": "rprivate",
        "Spec": {"Type": "bind", "Source": "/tmp", "Target": "/mnt", "ReadOnly": True},
        "SkipMountpointCreation": False,
    }


def test_mount_tmpfs() -> None:
    tmpfs = parse_mount("type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770")
    assert isinstance(tmpfs, TmpfsRequest)
    options = {"SizeBytes": 1 << 20, "Mode": 0o1770}
    assert (tmpfs.target, tmpfs.spec) == ("/t", {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": options})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("type=foo", "target is required"),
        ("type=foo,dst=/x", 'for type "foo": mount type unknown'),
        ("type=bind,dst=/b", "field Source must not be empty"),
        ("type=bind,src=a,dst=/b", "invalid mount path: 'a' mount path must be absolute"),
        ("type=bind,src=/a,dst=b", "mount path must be absolute"),
        ("type=bind,src=/a,dst=/b,bind-propagation=odd", "invalid propagation mode"),
        ("type=bind,src=/a,dst=/b,tmpfs-size=1", "cannot mix"),
        ("type=tmpfs,src=/a,dst=/b", "field Source must not be specified"),
        ("type=tmpfs,dst=/b,tmpfs-mode=9", "invalid value for tmpfs-mode"),
        ("type=bind,src=/a,dst=/b,ro=maybe", "invalid value for ro"),
        ("type=bind,src=/a,dst=/b,colour=red", "unexpected key 'colour'"),
        ("type=bind,src=/a,dst=/b,nonsense", "must be a key=value pair"),
        ("src=v,dst=/b", "volume name is too short"),
        ("src=vol,dst=/b,volume-driver=nfs", 'plugin "nfs" not found'),
        ("src=vol,dst=/b,volume-opt=type=nfs", 'missing required option: "device"'),
        ("src=vol,dst=/b,bind-propagation=shared", "cannot mix"),
    ],
)
def test_mount_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=".*") as caught:
        parse_mount(text)
    assert message in str(caught.value)


def test_a_comma_in_a_path_can_be_quoted() -> None:
    bind = parse_mount('type=bind,"src=/a,b",dst=/c')
    assert isinstance(bind, BindRequest)
    assert bind.source == "/a,b"
    assert split_fields('a,"b""c,d",e') == ["a", 'b"c,d', "e"]
    with pytest.raises(UsageError):
        split_fields('"open')


@pytest.mark.parametrize("text", ["/t", "/t:", "/t:size=1m,mode=1777,uid=3", "/t:ro,noexec,nosuid"])
def test_tmpfs(text: str) -> None:
    assert parse_tmpfs(text).target == "/t"


@pytest.mark.parametrize("text", ["rel", "/", "/t:bogus", "/t:size=", "/t:lowerdir=/etc"])
def test_tmpfs_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_tmpfs(text)


def test_sizes() -> None:
    assert [parse_size(text) for text in ("7", "7b", "1k", "1K", "1kb", "1KiB", "2g")] == [
        7,
        7,
        1024,
        1024,
        1024,
        1024,
        2 << 30,
    ]
    for text in ("", "x", "1q", "-1", "1.5m"):
        with pytest.raises(UsageError):
            parse_size(text)


@given(st.text(alphabet="/.a", max_size=20))
def test_a_cleaned_absolute_path_never_leaves_its_root(text: str) -> None:
    cleaned = clean_path("/" + text)
    assert cleaned.startswith("/")
    assert ".." not in cleaned.split("/")
    assert "//" not in cleaned
    assert clean_path(cleaned) == cleaned


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    for parse in (parse_volume, parse_mount, parse_tmpfs):
        try:
            parse(text)
        except UsageError as error:
            assert str(error)
