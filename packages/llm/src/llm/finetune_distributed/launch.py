"""`python -m llm.finetune_distributed.launch ...`, the same as `llm-launch finetune_distributed ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("llm.finetune_distributed")
