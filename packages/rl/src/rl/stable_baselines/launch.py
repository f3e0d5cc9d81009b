"""`python -m rl.stable_baselines.launch compute=<preset>`: the same as `rl-launch stable_baselines ...`."""

from common.launch import launch

if __name__ == "__main__":
    launch("rl.stable_baselines")
