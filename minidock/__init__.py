"""Docker's image store without dockerd: layers, overlay mounts, containers and commits on Docker's own layout.

The version alone lives here; importing the package loads nothing else, because start-up time is a feature.
"""

__version__ = "0.1.0"
