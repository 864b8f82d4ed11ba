"""One file for each published method, a folder for each large one."""
