"""`python -m rl.grpo.launch compute=<preset>`, the same as `rl-launch grpo compute=<preset>`."""

from common.launch import launch

if __name__ == "__main__":
    launch("rl.grpo")
