"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const el = (name, text, cls) => { const e = document.createElement(name); if (text !== undefined && text !== null) e.textContent = text; if (cls) e.className = cls; return e; };
  const short = d => (d || "").replace("sha256:", "").slice(0, 12), serial = d => d.split(":").pop();
  const minute = t => (t || "").slice(0, 16).replace("T", " "), number = n => n.toLocaleString("en");
  const FIELDS = ["what", "device", "from", "to", "verdict", "labels"], HEX = /^(sha256:)?[0-9a-f]{6,64}$/;
  let token = "", next = null, asked = null, loaded = false;
  try { token = sessionStorage.getItem("edgeprov") || ""; } catch { /* no storage: asked again after a reload */ }

  const get = async path => {
    let answer;
    try { answer = await fetch(path, {headers: token ? {Authorization: "Bearer " + token} : {}}); } catch { throw new Error("The service does not answer. Try again later."); }
    if (answer.status === 401) {
      $("login").hidden = false; $("token").focus();
      throw new Error(token ? "This token is not accepted." : "This service asks for an access token.");
    }
    $("login").hidden = true;
    if (!answer.ok) {
      const why = await answer.json().catch(() => ({}));
      const wait = answer.headers.get("Retry-After");
      throw new Error([why.message || answer.statusText, wait ? "try again in " + wait + " s" : "", why.advice || ""].filter(Boolean).join(": "));
    }
    return answer;
  };
  const json = async path => (await get(path)).json();
  const fail = error => { $("fault").textContent = error.message; $("fault").hidden = false; };
  // Only the newest action may write: an answer that comes late is of a question nobody asks any more.
  let turn = 0;
  const work = action => { const mine = ++turn, stale = () => mine !== turn; $("fault").hidden = true; action(stale).catch(error => { if (!stale()) fail(error); }); };

  const aside = action => { $("fault").hidden = true; action().catch(fail); };

  // The address behind # is the whole state: each search and each kit can be linked to, and "back" works.
  const state = () => new URLSearchParams(location.hash.slice(1));
  const link = (text, changes, cls) => {
    const a = el("a", text, cls), to = state();
    for (const [name, value] of Object.entries(changes)) { if (value === null) to.delete(name); else to.set(name, value); }
    a.href = "#" + to; return a;
  };
  const verdict = item => el("span", item.verdict === "refused" ? (item.step ? "refused, step " + item.step : "refused, content") : item.verdict, "v-" + item.verdict);
  const cells = (tr, values) => { for (const [value, cls] of values) { const td = el("td", value instanceof Node ? undefined : value, cls); if (value instanceof Node) td.append(value); tr.append(td); } return tr; };

  const question = at => {
    const ask = new URLSearchParams();
    for (const name of FIELDS.slice(1)) { const value = (at.get(name) || "").trim(); if (value) ask.set(name, value); }
    return ask;
  };
  const page = async at => {
    const ask = question(at), what = (at.get("what") || "").trim();
    if (next) ask.set("cursor", next);
    if (!what) return json("api/v1/kits?" + ask);
    if (HEX.test(what)) {
      const kits = new URLSearchParams(ask); kits.set("digest", what);
      const found = await json("api/v1/kits?" + kits);
      if (found.total.kits) return found;
    }
    ask.set("model", what);
    return json("api/v1/kits?" + ask).catch(error => { throw HEX.test(what) ? new Error("No kit and no model begins with " + what + ".") : error; });
  };
  const search = async (at, more, stale) => {
    const body = $("results").tBodies[0];
    if (!more) { body.replaceChildren(); next = null; $("more").hidden = true; $("told").textContent = "Searching …"; }
    let found;
    try { found = await page(at); } catch (error) { if (!stale()) $("told").textContent = ""; throw error; }
    if (stale()) return;
    for (const k of found.items) body.append(cells(el("tr"), [
      [link(short(k.digest), {kit: k.digest}, "kit")], [k.model_name || short(k.model)], [serial(k.device)], [k.slot], [number(k.seq), "n"],
      [k.kind === "kit" ? number(k.records) : "tombstone", "n"], [number(k.labels), "n"], [minute(k.recorded_first || k.created)], [verdict(k)]]));
    next = found.next; $("more").hidden = !next;
    $("told").textContent = number(body.rows.length) + " of " + number(found.total.kits) + " kits shown, " + number(found.total.records) + " records, " + number(found.total.labels) + " labels";
  };

  const chain = k => {
    const list = el("ol", undefined, "chain");
    for (const part of k.chain) {
      const li = el("li", undefined, part.verdict);
      li.append(el("b", {kit: "kit", device: "device", model: "model"}[part.link] + " "), part.link === "device" ? serial(part.name) : part.name || short(part.digest), el("br"), verdict(part));
      const more = [part.assurance ? "assurance " + part.assurance : "", part.detail || "", part.link === "model" ? "publisher's signature" : ""].filter(Boolean);
      if (more.length) li.append(el("span", ": " + more.join(", "), "dim"));
      list.append(li);
    }
    return list;
  };
  const facts = k => {
    const list = el("dl");
    const rows = [["Digest", el("code", k.digest)], ["Model", el("code", k.model)], ["Slot", k.slot]];
    if (k.kind === "kit") rows.push(["Records", number(k.records) + (k.first === null ? "" : " (numbers " + k.first + " to " + k.last + ")")], ["Labels", number(k.labels)]);
    if (k.recorded_first) rows.push(["Recorded", minute(k.recorded_first) + " to " + minute(k.recorded_last) + ", device's clock"]);
    if (k.signed_before) rows.push(["Signed before", minute(k.signed_before) + ", timestamp authority"]);
    rows.push(["First seen", minute(k.found_at) + ", this service's clock"], ["Lies in", k.source + ", " + k.repo + (k.tag ? ":" + k.tag : "")]);
    for (const [name, value] of rows) { const dd = el("dd"); dd.append(value); list.append(el("dt", name), dd); }
    return list;
  };
  const proof = k => {
    const form = el("form"), label = el("label", "Proof of result number "), input = el("input");
    input.id = "proof-number"; input.type = "number"; input.min = k.first; input.max = k.last; input.value = k.first; input.required = true; label.htmlFor = input.id;
    const file = () => serial(k.device) + "-" + k.slot + "-" + input.value + ".proof.json";
    form.append(label, input, " ", el("button", "Download proof"));
    form.addEventListener("submit", e => { e.preventDefault(); aside(async () => {
      $("told").textContent = "The proof is gathered and verified …";
      const blob = await (await get("api/v1/proofs/" + [serial(k.device), k.slot, input.value].map(encodeURIComponent).join("/"))).blob();
      const a = el("a"); a.href = URL.createObjectURL(blob); a.download = file(); a.click(); URL.revokeObjectURL(a.href);
      $("told").textContent = "Proof downloaded. Check it, without any network: edgeprov-fleet check-proof " + file() + " --trust DIR";
    }); });
    return form;
  };
  const show = async (digest, stale) => {
    const k = await json("api/v1/kits/" + encodeURIComponent(digest)), body = $("kit-body");
    if (stale()) return;
    $("kit-name").textContent = (k.kind === "kit" ? "Kit" : "Tombstone") + " number " + k.seq + " of " + serial(k.device);
    const p = el("p"); p.append("Verdict: ", verdict(k), k.detail ? ": " + k.detail : "");
    const walk = el("p", undefined, "walk");
    walk.append(k.prev ? link("← kit before", {kit: k.prev}) : el("span", "first of the device"));
    for (const d of k.after) walk.append(link("kit after →", {kit: d}));
    if (!k.after.length) walk.append(el("span", "newest of the device", "dim"));
    if (k.forks.length) walk.append(el("b", "Two artifacts claim this number: ", "doubt"), ...k.forks.map(d => link(short(d), {kit: d}, "kit")));
    const close = link("Close", {kit: null}, "close");
    body.replaceChildren(p, chain(k), walk, facts(k));
    if (k.records && k.verdict === "ok") body.append(proof(k));
    $("kit").querySelector(".close")?.remove(); $("kit").prepend(close);
    $("kit").hidden = false; $("kit").focus(); $("kit").scrollIntoView({block: "nearest"});
  };

  const named = m => m.name ? m.name + (m.version ? ":" + m.version : "") : short(m.digest);
  const ancestry = async digest => {
    const found = (await json("api/v1/lineage/" + digest)).items[0], list = el("ul");
    const models = new Map([...$("models").tBodies[0].rows].map(r => [r.dataset.digest, r.dataset.name]));
    const vouched = set => set.verified ? "; signed by " + set.signer : "; UNVERIFIED: " + set.why;
    const node = m => named(m) + (m.signed ? "" : " (publisher UNVERIFIED)") + ": " + number(m.records) + " records in " + number(m.kits) + " kits (" + number(m.verified_kits) + " verified) of " + number(m.devices) + " devices";
    for (const set of [...found.before].reverse()) list.append(el("li", "Training set " + short(set.statement) + (set.known ? ", of the data of " + set.models.map(d => models.get(d) || short(d)).join(", ") : ", not known here") + vouched(set)));
    list.append(el("li", "Model " + node(found.model)));
    for (const set of found.after) {
      const li = el("li", "Training set " + short(set.statement) + ": " + number(set.rows) + " rows (" + number(set.labelled) + " labelled) from " + number(set.kits) + " kits" + vouched(set));
      if (set.next_models.length) { const inner = el("ul"); for (const m of set.next_models) inner.append(el("li", "Model " + node(m))); li.append(inner); }
      list.append(li);
    }
    if (!found.before.length) list.prepend(el("li", "No training set is known that it was trained on", "dim"));
    if (!found.after.length) list.append(el("li", "No training set is known that was made of its data", "dim"));
    $("lineage-name").textContent = "Lineage of " + named(found.model);
    $("lineage-body").replaceChildren(list);
    $("lineage").hidden = false; $("lineage").focus(); $("lineage").scrollIntoView({block: "nearest"});
  };
  const load = async () => {
    const s = await json("api/v1/status");
    const read = s.sources.map(x => x.synced_at || "").sort().pop();
    $("status").textContent = number(s.kits) + " kits of " + number(s.devices) + " devices, " + number(s.records) + " records; " + number(s.verdicts.ok) + " verified, " + number(s.verdicts.refused) + " refused, " + number(s.verdicts.unchecked) + " unchecked; registries read " + (minute(read) || "never");
    const body = $("models").tBodies[0]; body.replaceChildren();
    for (const m of (await json("api/v1/models")).items) {
      const tr = el("tr"), ask = el("button", "Lineage"); ask.type = "button"; ask.setAttribute("aria-label", "Lineage of " + named(m));
      ask.addEventListener("click", () => aside(() => ancestry(m.digest)));
      tr.dataset.digest = m.digest; tr.dataset.name = named(m);
      const signed = m.signed === null ? "unchecked" : m.signed ? "ok" : "refused";
      body.append(cells(tr, [[link(named(m), {what: m.digest, kit: null})], [number(m.kits), "n"], [number(m.records), "n"], [number(m.devices), "n"], [el("span", signed, "v-" + signed)], [ask], [el("code", m.digest)]]));
    }
    if (s.devices <= 2000) $("devices").replaceChildren(...(await json("api/v1/devices")).items.map(d => { const o = el("option"); o.value = serial(d.device); return o; }));
    loaded = true;
  };
  const route = () => work(async stale => {
    const at = state(), now = FIELDS.map(name => at.get(name) || "").join("\n");
    for (const name of FIELDS) $("f-" + name).value = at.get(name) || "";
    if (!loaded) await load();
    if (stale()) return;
    if (now !== asked) { asked = null; await search(at, false, stale); if (stale()) return; asked = now; }
    if (at.get("kit")) await show(at.get("kit"), stale); else $("kit").hidden = true;
  });
  const go = to => { if ("#" + to === (location.hash || "#")) { asked = null; route(); } else location.hash = to; };
  $("search").addEventListener("submit", e => { e.preventDefault(); go(String(new URLSearchParams([...new FormData(e.target)].map(([n, v]) => [n, v.trim()]).filter(([, v]) => v)))); });
  $("clear").addEventListener("click", () => go(""));
  $("more").addEventListener("click", () => work(stale => search(state(), true, stale)));
  $("skip").addEventListener("click", e => { e.preventDefault(); document.querySelector('[aria-label="Table of kits"]').focus(); });
  $("login").addEventListener("submit", e => { e.preventDefault(); token = $("token").value.trim(); try { sessionStorage.setItem("edgeprov", token); } catch { /* kept for this page only */ } asked = null; route(); });
  // The description needs the token too: a link alone cannot bring it.
  $("api").addEventListener("click", e => { if (!token) return; e.preventDefault(); aside(async () => { const blob = await (await get("openapi.json")).blob(); const a = el("a"); a.href = URL.createObjectURL(blob); a.download = "openapi.json"; a.click(); URL.revokeObjectURL(a.href); }); });
  addEventListener("hashchange", route);
  route();
})();
