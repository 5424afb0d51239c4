"""How the agent reaches boards that it does not run on: over adb and over SSH."""
