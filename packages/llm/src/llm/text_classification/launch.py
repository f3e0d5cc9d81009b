"""`python -m llm.text_classification.launch ...`, the same as `llm-launch text_classification ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("llm.text_classification")
