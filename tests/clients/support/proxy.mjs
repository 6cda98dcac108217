// A TCP proxy between a browser and the server, which can cut and restore the connection.
import { once } from "node:events";
import { connect, createServer } from "node:net";

export async function startProxy(url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  let connected = true;
  const proxy = createServer((near) => {
    if (!connected) return near.destroy();
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
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  const cut = () => {
    connected = false;
    sockets.forEach((socket) => socket.destroy());
  };
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    cut,
    restore: () => (connected = true),
    stop: () => {
      cut();
      proxy.close();
    },
  };
}
