// As probe.c: one socket, for the tests of `emu exec`.
"use strict";
const dgram = require("dgram");
const net = require("net");

const [kind, way, address, text] = process.argv.slice(2);
const port = Number(text);

function fail(error) {
  console.log("errno", -error.errno);
  process.exit(1);
}

function answered(data) {
  console.log(data.toString());
  process.exit(0);
}

if (kind === "udp") {
  const socket = dgram.createSocket(address.includes(":") ? "udp6" : "udp4");
  socket.on("error", fail);
  if (way === "connect") {
    socket.on("message", answered);
    socket.connect(port, address, () => socket.send("?"));
  } else if (way === "sendto") {
    socket.on("message", answered);
    socket.send("?", port, address, (error) => error && fail(error));
  } else {
    socket.on("message", (_, peer) => {
      socket.send(peer.address, peer.port, peer.address, () => socket.close());
    });
    socket.bind(port, address, () => {
      console.log(socket.address().address);
      if (way !== "serve") socket.close();
    });
  }
} else if (way === "connect") {
  const socket = net.connect(port, address, () => socket.write("?"));
  socket.on("error", fail);
  socket.on("data", answered);
} else {
  const listener = net.createServer((socket) => {
    socket.on("data", () => socket.end(socket.remoteAddress));
    listener.close();
  });
  listener.on("error", fail);
  listener.listen(port, address, () => {
    console.log(listener.address().address);
    if (way !== "serve") listener.close();
  });
}
