#!/usr/bin/env python3
"""Runs the demo with one thing spoiled and passes only if it fails at exactly the step that claims it."""
import re
import subprocess
import sys

build, what, step = sys.argv[1:4]
demo = __file__.rsplit("/tests/", 1)[0] + "/demo/demo.py"
done = subprocess.run([sys.executable, demo, "--build", build, "--break", what], capture_output=True, text=True)
failed = re.search(r"^FAILED at step \d+ \[(\w+)\]: (.*)$", done.stdout, re.M)
if done.returncode == 3 and failed and failed.group(1) == step:
    print(f"spoiled: {what}; the demo failed at [{step}] as it must: {failed.group(2)}")
    sys.exit(0)
print(done.stdout + done.stderr)
print(f"spoiled: {what}; expected a failure at [{step}], got exit {done.returncode}" +
      (f" at [{failed.group(1)}]" if failed else " without a failed step"))
sys.exit(1)
