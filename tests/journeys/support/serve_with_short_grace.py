"""The `tollkeeper` command with a grace period of one second, so that a test does not wait for the real one."""

from tollkeeper.cli import main, serving

if __name__ == "__main__":
    serving.GRACE_S = 1
    main()
