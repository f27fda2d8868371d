// Required by the render server before its own script: an interrupted build must not leave it running.
process.stdin.on("end", () => process.exit(0)).resume();
