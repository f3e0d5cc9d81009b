"""`python -m mlp.single.launch compute=<preset>`, the same as `mlp-launch single compute=<preset>`."""

from common.launch import launch

if __name__ == "__main__":
    launch("mlp.single")
