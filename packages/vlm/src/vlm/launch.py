"""The console script `vlm-launch`: `vlm-launch <template> compute=<preset> key=value ...`."""

from common.launch import launch_package


def main() -> None:
    launch_package("vlm")
