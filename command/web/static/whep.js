// One live picture through WHEP (draft-ietf-wish-whep): offer by POST, end by DELETE, everything else is retrying well.
//
//   import { startWhep } from "./whep.js";
//   const live = startWhep(videoElement, "/api/v1/cameras/c-001/whep", { onState: (state, why) => … });
//   live.close();
//
// States: "connecting" -> "live" <-> "stalled"; "waiting" between two attempts; "refused" (the server said that trying
// again cannot help: unknown camera, H.265, B-frames); "closed". `why` is null or the JSON of the server's refusal
// ({ code, message, … } from the API).

const CONNECT_WITHIN_MS = 10000;
const STALLED_AFTER_MS = 4000;
const RECONNECT_STALLED_AFTER_MS = 20000;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 5000;
const FINAL_STATUS = new Set([400, 401, 403, 404, 406, 413, 415, 422]);

export function startWhep(video, url, { onState = () => {}, headers = {}, iceServers = [] } = {}) {
  let state = null;
  let attempt = null; // { pc, session, timers }
  let waitMs = FIRST_WAIT_MS;
  let retryTimer = 0;
  let closed = false;

  function setState(next, why = null) {
    if (state === next && why === null) return;
    state = next;
    onState(next, why);
  }

  function end(old) {
    if (!old || old.ended) return;
    old.ended = true;
    clearInterval(old.watch);
    clearTimeout(old.deadline);
    old.abort.abort();
    old.pc.ontrack = old.pc.onconnectionstatechange = null;
    old.pc.close();
    // keepalive: the request outlives a page that is being left.
    if (old.session) fetch(old.session, { method: "DELETE", keepalive: true, headers }).catch(() => {});
  }

  function retry(why = null) {
    end(attempt);
    attempt = null;
    if (closed) return;
    setState("waiting", why);
    clearTimeout(retryTimer);
    retryTimer = setTimeout(connect, waitMs * (0.75 + 0.5 * Math.random()));
    waitMs = Math.min(waitMs * 2, LONGEST_WAIT_MS);
  }

  function refuse(why) {
    end(attempt);
    attempt = null;
    setState("refused", why);
  }

  async function connect() {
    const pc = new RTCPeerConnection({ iceServers });
    const mine = { pc, session: null, abort: new AbortController(), ended: false, watch: 0, deadline: 0 };
    attempt = mine;
    setState("connecting");
    const transceiver = pc.addTransceiver("video", { direction: "recvonly" });
    if ("jitterBufferTarget" in transceiver.receiver) transceiver.receiver.jitterBufferTarget = 0;
    pc.ontrack = (event) => {
      video.srcObject = event.streams[0] ?? new MediaStream([event.track]);
      video.play()?.catch(() => {}); // refused autoplay shows the element's own play button
    };
    pc.onconnectionstatechange = () => {
      if (mine.ended) return;
      if (pc.connectionState === "connected") clearTimeout(mine.deadline);
      if (pc.connectionState === "failed" || pc.connectionState === "closed") retry();
    };
    mine.deadline = setTimeout(() => !mine.ended && retry(), CONNECT_WITHIN_MS);
    try {
      await pc.setLocalDescription(await pc.createOffer());
      // Sent without waiting for candidates: the server needs none, it answers the browser's own connectivity checks.
      const response = await fetch(url, {
        method: "POST",
        headers: { "Content-Type": "application/sdp", Accept: "application/sdp", ...headers },
        body: pc.localDescription.sdp,
        signal: mine.abort.signal,
      });
      if (response.status !== 201) {
        const why = await response.json().catch(() => null);
        if (mine.ended) return;
        if (FINAL_STATUS.has(response.status)) refuse(why ?? { code: `http.${response.status}` });
        else retry(why);
        return;
      }
      const session = response.headers.get("Location");
      if (session) mine.session = new URL(session, response.url).href;
      const answer = await response.text();
      if (mine.ended) {
        // Closed while the server was answering: `end` did not know the session yet.
        if (mine.session) fetch(mine.session, { method: "DELETE", keepalive: true, headers }).catch(() => {});
        return;
      }
      await pc.setRemoteDescription({ type: "answer", sdp: answer });
      if (!mine.ended) watch(mine, transceiver.receiver);
    } catch (error) {
      if (!mine.ended) retry();
    }
  }

  // Frames that arrive decide about "live", not the connection: a camera may be gone while the server is well.
  function watch(mine, receiver) {
    let frames = -1;
    let movedAt = performance.now();
    mine.watch = setInterval(async () => {
      let decoded = frames;
      for (const report of (await receiver.getStats()).values()) {
        if (report.type === "inbound-rtp") decoded = report.framesDecoded ?? 0;
      }
      if (mine.ended) return;
      const now = performance.now();
      if (decoded > Math.max(frames, 0)) {
        movedAt = now;
        waitMs = FIRST_WAIT_MS;
        setState("live");
      } else if (now - movedAt > RECONNECT_STALLED_AFTER_MS) {
        retry();
      } else if (now - movedAt > STALLED_AFTER_MS && state === "live") {
        setState("stalled");
      }
      frames = decoded;
    }, 500);
  }

  const leave = () => end(attempt);
  addEventListener("pagehide", leave);
  connect();

  return {
    get state() {
      return state;
    },
    close() {
      if (closed) return;
      closed = true;
      removeEventListener("pagehide", leave);
      clearTimeout(retryTimer);
      end(attempt);
      attempt = null;
      video.srcObject = null;
      setState("closed");
    },
  };
}
