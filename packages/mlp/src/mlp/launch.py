"""The console script `mlp-launch`: `mlp-launch <template> compute=<preset> key=value ...`."""

from common.launch import launch_package


def main() -> None:
    launch_package("mlp")
