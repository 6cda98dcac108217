// A wire between a browser and the server, which can be cut and mended.
import { once } from "node:events";
import { connect, createServer } from "node:net";

export async function startWire(url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  let whole = true;
  const wire = createServer((near) => {
    if (!whole) return near.destroy();
    const far = connect(Number(port), hostname);
    for (const [socket, other] of [[near, far], [far, near]]) {
      sockets.add(socket);
      socket.pipe(other);
      socket.on("error", () => {});
      socket.on("close", () => {
        sockets.delete(socket);
        other.destroy();
      });
    }
  });
  wire.listen(0, "127.0.0.1");
  await once(wire, "listening");
  const cut = () => {
    whole = false;
    sockets.forEach((socket) => socket.destroy());
  };
  return {
    url: `http://127.0.0.1:${wire.address().port}`,
    cut,
    mend: () => (whole = true),
    stop: () => {
      cut();
      wire.close();
    },
  };
}
