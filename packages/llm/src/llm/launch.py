"""The console script `llm-launch`: `llm-launch <template> compute=<preset> key=value ...`."""

from common.launch import launch_package


def main() -> None:
    launch_package("llm")
