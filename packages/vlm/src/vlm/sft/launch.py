"""`python -m vlm.sft.launch ...`, the same as `vlm-launch sft ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("vlm.sft")
