"""`python -m mlp.ddp.launch compute=<preset>`, the same as `mlp-launch ddp compute=<preset>`."""

from common.launch import launch

if __name__ == "__main__":
    launch("mlp.ddp")
