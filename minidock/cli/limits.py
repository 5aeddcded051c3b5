"""The words of the options about limits, as fields of hostconfig.json.

Source: docker/cli cli/command/container/{opts,update}.go, opts/opts.go, opts/throttledevice.go, opts/weightdevice.go
"""

from __future__ import annotations

from minidock.cli.sizes import parse_size
from minidock.errors import InvalidOption, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZES = (
    ("memory", "Memory", "-m, --memory"),
    ("memory_reservation", "MemoryReservation", "--memory-reservation"),
    ("memory_swap", "MemorySwap", "--memory-swap"),
    ("kernel_memory", "KernelMemory", "--kernel-memory"),
)
_PLAIN = (
    ("cpu_shares", "CpuShares"),
    ("cpu_period", "CpuPeriod"),
    ("cpu_quota", "CpuQuota"),
    ("cpu_rt_period", "CpuRealtimePeriod"),
    ("cpu_rt_runtime", "CpuRealtimeRuntime"),
    ("cpuset_cpus", "CpusetCpus"),
    ("cpuset_mems", "CpusetMems"),
    ("oom_kill_disable", "OomKillDisable"),
)
_THROTTLES = (
    ("device_read_bps", "BlkioDeviceReadBps", "--device-read-bps", True),
    ("device_write_bps", "BlkioDeviceWriteBps", "--device-write-bps", True),
    ("device_read_iops", "BlkioDeviceReadIOps", "--device-read-iops", False),
    ("device_write_iops", "BlkioDeviceWriteIOps", "--device-write-iops", False),
)


def read_limits(options: dict[str, Any]) -> dict[str, Any]:
    """The limits that a command line asks for, those alone; raises UsageError in docker's words."""
    limits: dict[str, Any] = {}
    for key, field, flag in _SIZES:
        text = options.get(key)
        if text:
            unlimited = key == "memory_swap" and text == "-1"
            limits[field] = -1 if unlimited else _size(text, flag)
    for key, field in _PLAIN:
        if options.get(key):
            limits[field] = options[key]
    if options.get("cpus"):
        limits["NanoCpus"] = parse_cpus(options["cpus"])
    weight = options.get("blkio_weight")
    if weight:
        if not 0 <= weight < 1 << 16:
            reason = "invalid syntax" if weight < 0 else "value out of range"
            raise _invalid(str(weight), "--blkio-weight", f'strconv.ParseUint: parsing "{weight}": {reason}')
        limits["BlkioWeight"] = weight
    swappiness = options.get("memory_swappiness")
    if swappiness is not None and swappiness != -1:
        if not 0 <= swappiness <= 100:
            raise InvalidOption(f"invalid value: {swappiness}. Valid memory swappiness range is 0-100")
        limits["MemorySwappiness"] = swappiness
    if options.get("pids_limit") is not None:
        limits["PidsLimit"] = options["pids_limit"]
    weights = [_weight_device(text) for text in options.get("blkio_weight_device") or ()]
    if weights:
        limits["BlkioWeightDevice"] = weights
    for key, field, flag, is_size in _THROTTLES:
        rates = [_throttle(text, flag, is_size) for text in options.get(key) or ()]
        if rates:
            limits[field] = rates
    return limits


def _invalid(text: str, flag: str, reason: str) -> InvalidOption:
    return InvalidOption(f'invalid argument "{text}" for "{flag}" flag: {reason}')


def _size(text: str, flag: str) -> int:
    try:
        return parse_size(text)
    except UsageError as error:
        raise _invalid(text, flag, error.message) from None


def parse_cpus(text: str) -> int:
    """Billionths of a CPU in a number such as `1.5`; raises UsageError."""
    number, _, exponent = text.lower().partition("e")
    sign = -1 if number.startswith("-") else 1
    whole, _, fraction = number.lstrip("+-").partition(".")
    digits = whole + fraction
    power = exponent.lstrip("+-") or "0"
    if not (digits.isascii() and digits.isdecimal() and power.isascii() and power.isdecimal() and len(power) < 3):
        raise _invalid(text, "--cpus", f"failed to parse {text} as a rational number")
    shift = 9 - len(fraction) + (-int(power) if exponent.startswith("-") else int(power))
    value = int(digits) * 10 ** max(shift, 0)
    nano, rest = divmod(value, int(10 ** max(-shift, 0)))
    if rest:
        raise _invalid(text, "--cpus", "value is too precise")
    return sign * int(nano)


def _device(text: str, flag: str) -> tuple[str, str]:
    path, colon, value = text.partition(":")
    if not colon:
        raise _invalid(text, flag, f"bad format: {text}")
    if not path.startswith("/dev/"):
        raise _invalid(text, flag, f"bad format for device path: {text}")
    return path, value


def _weight_device(text: str) -> dict[str, Any]:
    flag = "--blkio-weight-device"
    path, value = _device(text, flag)
    number = int(value) if value.isascii() and value.isdecimal() and len(value) < 6 else -1
    if number != 0 and not 10 <= number <= 1000:
        raise _invalid(text, flag, f"invalid weight for device: {text}")
    return {"Path": path, "Weight": number}


def _throttle(text: str, flag: str, is_size: bool) -> dict[str, Any]:
    path, value = _device(text, flag)
    unit = "[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
    words = unit if is_size else ". Number must be a positive integer"
    refusal = _invalid(
        text, flag, f"invalid rate for device: {text}. The correct format is <device-path>:<number>{words}"
    )
    if is_size:
        try:
            return {"Path": path, "Rate": parse_size(value)}
        except UsageError:
            raise refusal from None
    if not (value.isascii() and value.isdecimal() and len(value) < 20):
        raise refusal
    return {"Path": path, "Rate": int(value)}
