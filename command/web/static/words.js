// The page's words in both languages, and everything that turns a value into words: times, states, durations.

const WORDS = {
  zh: {
    title: "Gridwatch 指挥台", skip: "跳到案件", map: "网格与摄像头地图", language: "English",
    countCameras: "摄像头在线", countCases: "未结案件", countTasks: "待确认任务",
    cameras: "摄像头", events: "事件", cases: "案件与任务", search: "搜索摄像头", filter: "筛选摄像头",
    all: "全部", alert: "有事件", trouble: "异常", close: "关闭", newest: (n) => `最近 ${n} 条`,
    noEvents: "还没有事件。", noCases: "还没有案件。", noCameras: "没有符合条件的摄像头。",
    loading: "正在读取…", connected: "实时连接正常", connecting: "正在连接…",
    lost: (at) => `连接中断：显示的是 ${at} 的情况，正在重连`, lostNever: "连不上服务器，正在重试",
    databaseAway: (at) => `数据库暂时不可用：显示的是 ${at} 的情况`,
    newEvent: (what, where) => `新事件：${what}，${where}`, event: "事件", caseOf: (n) => `案件 ${n}`,
    camera: "摄像头", grid: "网格", village: "村", zone: "区域", score: "置信度", object: "目标", started: "开始", ended: "结束",
    ongoing: "仍在持续", state: "状态", noGrid: "没有匹配到网格", nearest: "（最近的网格）",
    noCase: "这个事件没有形成案件。", evidence: "证据图片", noEvidence: "没有证据图片", evidenceGone: "证据图片读不到",
    tasks: "任务", steps: "经过", noTasks: "还没有派出任务。", system: "系统", operator: "指挥中心", confirmed: "设备已确认", unconfirmed: "设备未确认",
    due: "期限", note: "备注（退回时必填）", noteNeeded: "退回任务要写明原因。", sent: "已完成。",
    conflict: (revision) => `没有执行：别人刚刚改过这个案件（现在是第 ${revision} 版）。已显示最新情况，请看过后再决定。`,
    failed: "没有执行：", offline: "服务器没有应答，请稍后再试。",
    live: "实时画面", lastPicture: "实时画面打不开，显示最后一张画面", startingLive: "正在打开实时画面…", stalledLive: "画面停住了，正在等待摄像头",
    pictureAt: (at) => `画面时间 ${at}`, noPicture: "还没有画面", stream: "码流", resolution: "分辨率", fps: "帧率", bitrate: "码率", gop: "关键帧间隔", loss: "丢包", reconnects: "重连次数", since: "自", retry: "重试", noState: "尚未启动",
  },
  en: {
    title: "Gridwatch command desk", skip: "Skip to cases", map: "Map of grids and cameras", language: "中文",
    countCameras: "cameras live", countCases: "open cases", countTasks: "tasks unconfirmed",
    cameras: "Cameras", events: "Events", cases: "Cases and tasks", search: "Find a camera", filter: "Filter cameras",
    all: "All", alert: "With events", trouble: "Not live", close: "Close", newest: (n) => `newest ${n}`,
    noEvents: "No events yet.", noCases: "No cases yet.", noCameras: "No camera matches.",
    loading: "Reading…", connected: "Live", connecting: "Connecting…",
    lost: (at) => `Connection lost: this is how things were at ${at}; reconnecting`, lostNever: "The server cannot be reached; trying again",
    databaseAway: (at) => `The database is away: this is how things were at ${at}`,
    newEvent: (what, where) => `New event: ${what}, ${where}`, event: "Event", caseOf: (n) => `Case ${n}`,
    camera: "Camera", grid: "Grid", village: "Village", zone: "Zone", score: "Score", object: "Object", started: "Began", ended: "Ended",
    ongoing: "still going on", state: "State", noGrid: "no grid matches", nearest: " (nearest grid)",
    noCase: "This event has made no case.", evidence: "Evidence", noEvidence: "No evidence picture", evidenceGone: "The evidence picture cannot be read",
    tasks: "Tasks", steps: "What happened", noTasks: "No task has been given out yet.", system: "system", operator: "command centre", confirmed: "device confirmed", unconfirmed: "device has not confirmed",
    due: "due", note: "Note (needed to send back)", noteNeeded: "Say why the task goes back.", sent: "Done.",
    conflict: (revision) => `Not done: somebody else has just changed this case (it is now at revision ${revision}). The newest state is shown; look before you decide.`,
    failed: "Not done: ", offline: "The server did not answer; try again in a moment.",
    live: "Live picture", lastPicture: "No live picture; this is the last one", startingLive: "Opening the live picture…", stalledLive: "The picture stands still; waiting for the camera",
    pictureAt: (at) => `Picture of ${at}`, noPicture: "No picture yet", stream: "Stream", resolution: "Resolution", fps: "Frame rate", bitrate: "Bit rate", gop: "Keyframe interval", loss: "Packets lost", reconnects: "Reconnects", since: "since", retry: "Try again", noState: "not started",
  },
};

const STATES = {
  zh: {
    live: "在线", connecting: "连接中", waiting: "等待", stalled: "卡住", unreachable: "连不上", refused: "被拒绝", unauthorised: "密码错误",
    not_found: "没有此码流", session_limit: "连接数已满", bad_stream: "码流异常", stopped: "已停止", unknown: "未知",
    opened: "进行中", updated: "进行中", closed: "已结束",
    collected: "已采集", registered: "已立案", dispatched: "已派遣", accepted: "已接受", on_site: "已到场", handled: "已处置", reported_back: "已反馈",
    verified: "已核查", case_closed: "已结案", evaluated: "已评价", dismissed: "已作废", merged: "已合并", sent_back: "已退回", reassigned: "已改派",
    transferred: "已移送", suspended: "已挂起", reopened: "已重开",
    offered: "已派出", received: "已送达", done: "已完成", task_refused: "已拒绝", recalled: "已收回", expired: "已超时",
  },
  en: {
    live: "live", connecting: "connecting", waiting: "waiting", stalled: "stalled", unreachable: "unreachable", refused: "refused", unauthorised: "wrong password",
    not_found: "no such stream", session_limit: "no free session", bad_stream: "bad stream", stopped: "stopped", unknown: "unknown",
    opened: "going on", updated: "going on", closed: "ended",
    collected: "collected", registered: "registered", dispatched: "dispatched", accepted: "accepted", on_site: "on site", handled: "handled", reported_back: "reported back",
    verified: "verified", case_closed: "closed", evaluated: "evaluated", dismissed: "dismissed", merged: "merged", sent_back: "sent back", reassigned: "reassigned",
    transferred: "transferred", suspended: "suspended", reopened: "reopened",
    offered: "offered", received: "received", done: "done", task_refused: "refused", recalled: "recalled", expired: "expired",
  },
};

const STEPS = {
  zh: {
    collect: "采集", register: "立案", dispatch: "派遣", accept: "接受", arrive: "到场", handle: "处置", report_back: "反馈", refuse: "拒绝", expire: "超时",
    verify: "核查", close: "结案", evaluate: "评价", send_back: "退回", reassign: "改派", transfer: "移送", suspend: "挂起", resume: "恢复", dismiss: "作废", merge: "合并", reopen: "重开",
    join: "并入事件", event: "并入事件",
  },
  en: {
    collect: "collected", register: "registered", dispatch: "dispatched", accept: "accepted", arrive: "arrived", handle: "handled", report_back: "reported back", refuse: "refused", expire: "expired",
    verify: "verified", close: "closed", evaluate: "evaluated", send_back: "sent back", reassign: "reassigned", transfer: "transferred", suspend: "suspended", resume: "resumed", dismiss: "dismissed", merge: "merged", reopen: "reopened",
    join: "event joined", event: "event joined",
  },
};

const ACTIONS = {
  zh: { verify: "核查通过并结案", close: "结案", dismiss: "作废", send_back: "退回重办", reopen: "重新立案" },
  en: { verify: "Verify and close", close: "Close", dismiss: "Dismiss", send_back: "Send back", reopen: "Reopen" },
};

const OBJECTS = {
  zh: { person: "人", bicycle: "自行车", car: "汽车", motorcycle: "摩托车", bus: "客车", truck: "货车", dog: "狗", cat: "猫", boat: "船" },
  en: {},
};

// Which colour a state has. Everything else counts as over.
const TONES = {
  collected: "open", registered: "open", sent_back: "open", reassigned: "open", reopened: "open", offered: "open", opened: "open", updated: "open",
  dispatched: "under-way", accepted: "under-way", on_site: "under-way", handled: "under-way", received: "under-way", suspended: "open", transferred: "under-way",
  reported_back: "open", verified: "done", done: "done", expired: "trouble", task_refused: "trouble",
};

let zone = "Asia/Shanghai";
export let lang = "zh";

export function setLanguage(name) {
  lang = name === "en" ? "en" : "zh";
  document.documentElement.lang = lang === "zh" ? "zh-CN" : "en";
}

export function setZone(name) { zone = name; }

export function word(name, ...facts) {
  const found = WORDS[lang][name];
  return typeof found === "function" ? found(...facts) : found ?? name;
}

export const stateWord = (state) => STATES[lang][state] ?? state;
export const caseWord = (state) => STATES[lang][state === "closed" ? "case_closed" : state] ?? state;
export const taskWord = (state) => STATES[lang][state === "refused" ? "task_refused" : state] ?? state;
export const stepWord = (step) => STEPS[lang][step] ?? step;
export const actionWord = (step) => ACTIONS[lang][step] ?? stepWord(step);
export const objectWord = (name) => OBJECTS[lang][name] ?? name;
export const toneOf = (state) => TONES[state] ?? "over";
export const taskTone = (state) => TONES[state === "refused" ? "task_refused" : state] ?? "over";
export const title = (thing) => (lang === "zh" ? thing.title_zh : thing.title_en) || thing.code;
export const reasonOf = (health) => (lang === "zh" ? health.reason_zh : health.reason_en) || "";

const formats = new Map();
function format(name, options) {
  const key = `${name} ${lang} ${zone}`;
  if (!formats.has(key)) formats.set(key, new Intl.DateTimeFormat(lang === "zh" ? "zh-CN" : "en-GB", { timeZone: zone, hourCycle: "h23", ...options }));
  return formats.get(key);
}

export const clockTime = (at) => format("time", { hour: "2-digit", minute: "2-digit", second: "2-digit" }).format(new Date(at));
export const clockDay = (at) => format("day", { month: "long", day: "numeric", weekday: "short" }).format(new Date(at));

/** Time of day, with the date in front when it is not today in the town. */
export function moment(at, now) {
  const day = format("date", { year: "numeric", month: "2-digit", day: "2-digit" });
  const date = new Date(at);
  return day.format(date) === day.format(new Date(now)) ? clockTime(date) : `${format("short", { month: "numeric", day: "numeric" }).format(date)} ${clockTime(date)}`;
}

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const parts = s < 60 ? [s, "s"] : s < 3600 ? [Math.round(s / 60), "m"] : [Math.round(s / 360) / 10, "h"];
  const units = lang === "zh" ? { s: "秒", m: "分钟", h: "小时" } : { s: "s", m: "min", h: "h" };
  return `${parts[0]} ${units[parts[1]]}`;
}
