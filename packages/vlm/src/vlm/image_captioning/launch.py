"""`python -m vlm.image_captioning.launch ...`, the same as `vlm-launch image_captioning ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("vlm.image_captioning")
