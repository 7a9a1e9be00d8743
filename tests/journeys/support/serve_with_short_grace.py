"""The `tollkeeper` command with a short grace period, so that a test need not wait for the real one."""

from tollkeeper.cli import main, serving

if __name__ == "__main__":
    serving.GRACE_S = 1
    main()
