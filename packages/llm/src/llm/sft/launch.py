"""`python -m llm.sft.launch ...`, the same as `llm-launch sft ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("llm.sft")
