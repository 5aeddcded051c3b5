"""config.v2.json and hostconfig.json: Docker 20.10's own documents are the model."""

from __future__ import annotations

import json

import pytest

from minidock.errors import BadConfig
from minidock.formats.containerconfig import (
    ContainerConfig,
    container_document,
    encode_record,
    endpoint_document,
    host_document,
    time_of,
    time_text,
)

# Written by dockerd 20.10.24 for `docker create --network none IMAGE echo hi`.
DOCKER_CONFIG_KEYS = (
    "StreamConfig State ID Created Managed Path Args Config Image NetworkSettings LogPath Name Driver OS MountLabel "
    "ProcessLabel RestartCount HasBeenStartedBefore HasBeenManuallyStopped MountPoints SecretReferences "
    "ConfigReferences AppArmorProfile HostnamePath HostsPath ShmPath ResolvConfPath SeccompProfile NoNewPrivileges "
    "LocalLogCacheMeta"
).split()
DOCKER_STATE = (
    '{"Running":false,"Paused":false,"Restarting":false,"OOMKilled":false,"RemovalInProgress":false,"Dead":false,'
    '"Pid":0,"ExitCode":0,"Error":"","StartedAt":"0001-01-01T00:00:00Z","FinishedAt":"0001-01-01T00:00:00Z",'
    '"Health":null}'
)
DOCKER_HOST = (
    '{"Binds":null,"ContainerIDFile":"","LogConfig":{"Type":"json-file","Config":{}},"NetworkMode":"none",'
    '"PortBindings":{},"RestartPolicy":{"Name":"no","MaximumRetryCount":0},"AutoRemove":false,"VolumeDriver":"",'
    '"VolumesFrom":null,"CapAdd":null,"CapDrop":null,"CgroupnsMode":"host","Dns":[],"DnsOptions":[],"DnsSearch":[],'
    '"ExtraHosts":null,"GroupAdd":null,"IpcMode":"private","Cgroup":"","Links":null,"OomScoreAdj":0,"PidMode":"",'
    '"Privileged":false,"PublishAllPorts":false,"ReadonlyRootfs":false,"SecurityOpt":null,"UTSMode":"",'
    '"UsernsMode":"","ShmSize":67108864,"Runtime":"runc","ConsoleSize":[0,0],"Isolation":"","CpuShares":0,"Memory":0,'
    '"NanoCpus":0,"CgroupParent":"","BlkioWeight":0,"BlkioWeightDevice":[],"BlkioDeviceReadBps":null,'
    '"BlkioDeviceWriteBps":null,"BlkioDeviceReadIOps":null,"BlkioDeviceWriteIOps":null,"CpuPeriod":0,"CpuQuota":0,'
    '"CpuRealtimePeriod":0,"CpuRealtimeRuntime":0,"CpusetCpus":"","CpusetMems":"","Devices":[],'
    '"DeviceCgroupRules":null,"DeviceRequests":null,"KernelMemory":0,"KernelMemoryTCP":0,"MemoryReservation":0,'
    '"MemorySwap":0,"MemorySwappiness":null,"OomKillDisable":false,"PidsLimit":null,"Ulimits":null,"CpuCount":0,'
    '"CpuPercent":0,"IOMaximumIOps":0,"IOMaximumBandwidth":0,"MaskedPaths":["/proc/asound","/proc/acpi",'
    '"/proc/kcore","/proc/keys","/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug",'
    '"/proc/scsi","/sys/firmware"],"ReadonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys",'
    '"/proc/sysrq-trigger"]}\n'
)


def host(**changes: object) -> dict[str, object]:
    """hostconfig.json of a plain create with these changes."""
    plain: dict[str, object] = {
        "binds": [],
        "mounts": [],
        "tmpfs": {},
        "network": "none",
        "cap_add": [],
        "cap_drop": [],
        "privileged": False,
        "read_only": False,
        "group_add": [],
        "init": False,
        "cidfile": "",
        "shm_size_bytes": 64 << 20,
        "cgroup_parent": "",
        "cgroup_namespace": "host",
    }
    return host_document(**{**plain, **changes})  # type: ignore[arg-type]


def document() -> dict[str, object]:
    """config.v2.json of a plain create."""
    return container_document(
        container_id="a" * 64,
        name="box",
        image_id="sha256:" + "b" * 64,
        created_ns=1_700_000_000_123_000_000,
        argv=["echo", "hi"],
        run={"Env": ["A=1"], "Cmd": ["echo", "hi"], "Image": "bb"},
        networks={"none": endpoint_document()},
        mount_points={},
    )


def test_hostconfig_is_docker_s_byte_for_byte() -> None:
    assert encode_record(host()) == DOCKER_HOST.encode()


def test_privileged_masks_nothing_and_init_comes_last() -> None:
    privileged = host(privileged=True, init=True, tmpfs={"/t": "size=1m"}, mounts=[{"Type": "bind"}])
    assert privileged["MaskedPaths"] is None
    assert privileged["ReadonlyPaths"] is None
    assert privileged["SecurityOpt"] == ["label=disable"]
    keys = list(privileged)
    assert keys[-1] == "Init"
    assert keys[keys.index("SecurityOpt") + 1] == "Tmpfs"
    assert keys[keys.index("IOMaximumBandwidth") + 1] == "Mounts"


def test_auto_remove_is_never_written() -> None:
    assert host()["AutoRemove"] is False


def test_config_keys_and_state_are_docker_s() -> None:
    made = document()
    assert list(made) == DOCKER_CONFIG_KEYS
    assert encode_record(made["State"]) == DOCKER_STATE.encode() + b"\n"  # type: ignore[arg-type]
    assert made["Created"] == "2023-11-14T22:13:20.123Z"
    assert made["Name"] == "/box"
    assert (made["Path"], made["Args"]) == ("echo", ["hi"])


def test_unknown_fields_survive_a_round_trip() -> None:
    foreign = document()
    foreign["ImageManifest"] = {"digest": "x"}
    foreign["Config"]["NewThing"] = [1, {"deep": True}]  # type: ignore[index]
    raw = encode_record(foreign)
    read = ContainerConfig.parse(raw, encode_record({**host(), "WritableCgroups": True}), what="c")
    assert encode_record(read.document) == raw
    assert read.host["WritableCgroups"] is True


@pytest.mark.parametrize(
    ("field", "value"),
    [("Path", 3), ("Args", "sh"), ("Args", [1]), ("Name", ["x"]), ("Config", []), ("MountPoints", [])],
)
def test_a_wrong_type_is_one_clear_error(field: str, value: object) -> None:
    config = ContainerConfig({**document(), field: value}, host(), what="container c0ffee")
    with pytest.raises(BadConfig, match="container c0ffee") as caught:
        for name in ("path", "arguments", "name", "run", "mount_points"):
            getattr(config, name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b'{"a":' * 100_000])
def test_damaged_files_are_refused(raw: bytes) -> None:
    with pytest.raises(BadConfig):
        ContainerConfig.parse(raw, b"{}", what="c")
    with pytest.raises(BadConfig):
        ContainerConfig.parse(b"{}", raw, what="c")


def test_bytes_that_are_no_utf8_become_the_replacement_character_as_in_go() -> None:
    made = document()
    made["Args"] = [b"caf\xe9".decode("utf-8", "surrogateescape")]
    assert json.loads(encode_record(made))["Args"] == ["caf\ufffd"]


def test_times() -> None:
    assert time_text(0) == "0001-01-01T00:00:00Z"
    assert time_of("0001-01-01T00:00:00Z") == 0
    assert time_of("nonsense") == 0
    assert time_of(time_text(1_700_000_000_000_000_001)) == 1_700_000_000_000_000_001
