// Required by KaTeX's render server before its own script.

// An interrupted build must not leave the server running.
process.stdin.on("end", () => process.exit(0)).resume();

// Length and text of an answer are two writes; without this the second one waits 40 ms for an acknowledgement.
const net = require("net");
const createServer = net.createServer;
net.createServer = () => createServer({ noDelay: true });
