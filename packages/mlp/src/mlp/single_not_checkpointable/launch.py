"""`python -m mlp.single_not_checkpointable.launch compute=<preset>`, or by `mlp-launch`."""

from common.launch import launch

if __name__ == "__main__":
    launch("mlp.single_not_checkpointable")
