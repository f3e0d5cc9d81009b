"""`python -m llm.dpo.launch ...`, the same as `llm-launch dpo ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("llm.dpo")
