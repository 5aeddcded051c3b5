"""minidock info"""

from __future__ import annotations

from minidock.cli.output import write_error, write_line
from minidock.cli.report import write_document
from minidock.cli.session import Reading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def handle(options: dict[str, Any]) -> int:
    """Show facts about the data root and the machine."""
    from minidock.verbs.info import info

    with Reading(options) as root:
        facts = info(root)
    if options["format"]:
        write_document(facts, options["format"])
    else:
        for line in _lines(facts):
            write_line(line)
    for warning in (facts["Warnings"] or ()) if not options["format"] else ():
        write_error(warning)
    return 0


def _lines(facts: dict[str, Any]) -> list[str]:
    """The facts in docker's order and words."""
    from minidock.cli.times import human_ram

    lines = [
        f"Containers: {facts['Containers']}",
        f" Running: {facts['ContainersRunning']}",
        f" Paused: {facts['ContainersPaused']}",
        f" Stopped: {facts['ContainersStopped']}",
        f"Images: {facts['Images']}",
        f"Server Version: {facts['ServerVersion']}",
        f"Storage Driver: {facts['Driver']}",
    ]
    lines += [f" {name}: {value}" for name, value in facts["DriverStatus"]]
    lines += [
        f"Logging Driver: {facts['LoggingDriver']}",
        f"Cgroup Driver: {facts['CgroupDriver']}",
        f"Cgroup Version: {facts['CgroupVersion']}",
    ]
    if facts["SecurityOptions"]:
        lines.append("Security Options:")
        for option in facts["SecurityOptions"]:
            name, *details = option.split(",")
            lines.append(f" {name.removeprefix('name=')}")
            lines += [f"  {key.capitalize()}: {value}" for key, _, value in (each.partition("=") for each in details)]
    return [
        *lines,
        f"Kernel Version: {facts['KernelVersion']}",
        f"Operating System: {facts['OperatingSystem']}",
        f"OSType: {facts['OSType']}",
        f"Architecture: {facts['Architecture']}",
        f"CPUs: {facts['NCPU']}",
        f"Total Memory: {human_ram(facts['MemTotal'])}",
        f"Name: {facts['Name']}",
        f"Docker Root Dir: {facts['DockerRootDir']}",
    ]
