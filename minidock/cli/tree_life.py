"""The options of `create` and `run` about what happens over a container's life, as they stand in the typer tree."""

from __future__ import annotations

from typing import Annotated

import typer

Restart = Annotated[
    str | None,
    typer.Option("--restart", metavar="POLICY", help="'no', 'on-failure[:n]', 'always' or 'unless-stopped'"),
]
HealthCmd = Annotated[
    str | None, typer.Option("--health-cmd", metavar="COMMAND", help="Shell command that tells whether it is well")
]
HealthInterval = Annotated[
    str | None, typer.Option("--health-interval", metavar="SPAN", help="Time between two checks (30s)")
]
HealthTimeout = Annotated[
    str | None, typer.Option("--health-timeout", metavar="SPAN", help="How long one check may take (30s)")
]
HealthStart = Annotated[
    str | None, typer.Option("--health-start-period", metavar="SPAN", help="At first, failures are not counted (0s)")
]
HealthRetries = Annotated[
    int | None, typer.Option("--health-retries", metavar="N", help="Failures in a row that make it unhealthy (3)")
]
NoHealth = Annotated[bool, typer.Option("--no-healthcheck", show_default=False, help="Run no health check at all")]
LogDriver = Annotated[
    str | None, typer.Option("--log-driver", metavar="DRIVER", help="'json-file' (the default) or 'none'")
]
LogOpt = Annotated[
    list[str] | None, typer.Option("--log-opt", metavar="KEY=VALUE", help="max-size, max-file (repeatable)")
]
Domainname = Annotated[str | None, typer.Option("--domainname", metavar="NAME", help="NIS domain name inside")]
Platform = Annotated[
    str | None, typer.Option("--platform", metavar="OS/ARCH", help="Take the image only if it is of this platform")
]
Runtime = Annotated[str | None, typer.Option("--runtime", metavar="NAME", help="'runc' alone is accepted")]
IsolationMode = Annotated[str | None, typer.Option("--isolation", metavar="MODE", help="'default' alone is accepted")]
VolumeDriver = Annotated[str | None, typer.Option("--volume-driver", metavar="DRIVER", help="'local' alone is there")]
StorageOpt = Annotated[
    list[str] | None, typer.Option("--storage-opt", metavar="KEY=VALUE", help="Not there on overlay2 (repeatable)")
]
Gpus = Annotated[str | None, typer.Option("--gpus", metavar="REQUEST", help="Not there: name devices by --device")]
Link = Annotated[
    list[str] | None, typer.Option("--link", metavar="CONTAINER[:ALIAS]", help="Not there: a legacy option")
]
ContentTrust = Annotated[
    bool, typer.Option("--disable-content-trust", help="Accepted; there is no registry to verify against")
]
