"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const el = (name, text, cls) => { const e = document.createElement(name); if (text !== undefined && text !== null) e.textContent = text; if (cls) e.className = cls; return e; };
  const short = d => (d || "").replace("sha256:", "").slice(0, 12), day = t => (t || "").slice(0, 16).replace("T", " ");
  let token = "", next = null, question = new URLSearchParams();
  try { token = sessionStorage.getItem("edgeprov") || ""; } catch { /* no storage: asked again after a reload */ }
  const get = async path => {
    const answer = await fetch(path, {headers: token ? {Authorization: "Bearer " + token} : {}});
    if (answer.status === 401) { $("login").hidden = false; $("denied").textContent = token ? "This token is not accepted." : ""; $("token").focus(); throw new Error("a token is needed"); }
    $("login").hidden = true;
    if (!answer.ok) { const why = await answer.json().catch(() => ({})); throw new Error(why.message || answer.statusText); }
    return answer;
  };
  const json = async path => (await get(path)).json();
  const verdict = item => el("span", item.verdict === "refused" && item.step ? "refused, step " + item.step : item.verdict, "v-" + item.verdict);
  const row = (table, cells) => { const tr = el("tr"); for (const [value, cls] of cells) { const td = el("td", value instanceof Node ? undefined : value, cls); if (value instanceof Node) td.append(value); tr.append(td); } $(table).tBodies[0].append(tr); };
  const tell = error => { $("told").textContent = error.message; };
  const button = (text, action) => { const b = el("button", text, "link"); b.type = "button"; b.addEventListener("click", () => action().catch(tell)); return b; };
  const search = async more => {
    if (!more) { $("results").tBodies[0].replaceChildren(); next = null; }
    const ask = new URLSearchParams(question); if (next) ask.set("cursor", next);
    const page = await json("api/v1/kits?" + ask);
    for (const k of page.items) row("results", [[button(short(k.digest), () => show(k.digest))], [k.model_name || short(k.model)], [k.device.split(":").pop()], [k.slot], [k.seq, "n"], [k.records, "n"], [k.labels, "n"], [day(k.recorded_first || k.created)], [verdict(k)]]);
    next = page.next; $("more").hidden = !next;
    const n = $("results").tBodies[0].rows.length;
    $("told").textContent = n + " of " + page.total.kits + " kits shown, " + page.total.records + " records, " + page.total.labels + " labels";
  };
  const show = async digest => {
    const k = await json("api/v1/kits/" + digest), body = $("kit-body");
    $("kit-name").textContent = (k.kind === "kit" ? "Kit " : "Tombstone ") + short(k.digest) + ", number " + k.seq + " of " + k.device.split(":").pop();
    body.replaceChildren();
    const p = el("p"); p.append("Verdict: ", verdict(k), k.detail ? " (" + k.detail + ")" : ""); body.append(p);
    const chain = el("ol", undefined, "chain");
    for (const link of k.chain) { const li = el("li"); li.append(el("b", link.link + " "), link.name || short(link.digest), el("br"), verdict(link), link.assurance ? " assurance " + link.assurance : "", link.detail ? " " + link.detail : ""); chain.append(li); }
    body.append(chain);
    const facts = el("p", k.records + " records (numbers " + (k.first ?? "–") + " to " + (k.last ?? "–") + "), " + k.labels + " labels; first seen " + day(k.found_at) + "; " + k.source); body.append(facts);
    const walk = el("p"); walk.append("Series: ");
    walk.append(k.prev ? button("before " + short(k.prev), () => show(k.prev)) : "first of the device", "   ");
    for (const d of k.after) walk.append(button("after " + short(d), () => show(d)), " ");
    if (k.forks.length) walk.append(el("b", " two artifacts claim this number: ", "doubt"), ...k.forks.map(d => button(short(d), () => show(d))));
    body.append(walk);
    if (k.records && k.verdict === "ok") {
      const form = el("form"), label = el("label", "Proof of result number "), input = el("input");
      input.id = "proof-number"; input.type = "number"; input.min = k.first; input.max = k.last; input.value = k.first; label.htmlFor = input.id;
      form.append(label, input, " ", el("button", "Download proof"));
      form.addEventListener("submit", e => { e.preventDefault(); (async () => {
        const blob = await (await get("api/v1/proofs/" + [k.device.split(":").pop(), k.slot, input.value].map(encodeURIComponent).join("/"))).blob();
        const a = el("a"); a.href = URL.createObjectURL(blob); a.download = k.device.split(":").pop() + "-" + k.slot + "-" + input.value + ".proof.json"; a.click(); URL.revokeObjectURL(a.href);
        $("told").textContent = "Proof downloaded: check it with edgeprov-fleet check-proof FILE --trust DIR";
      })().catch(tell); });
      body.append(form);
    }
    $("kit").hidden = false; $("kit").focus(); $("kit").scrollIntoView({block: "nearest"});
    history.replaceState(null, "", "#" + k.digest);
  };
  const start = async () => {
    const s = await json("api/v1/status");
    $("status").textContent = s.kits + " kits of " + s.devices + " devices, " + s.records + " records; " + s.verdicts.ok + " verified, " + s.verdicts.refused + " refused, " + s.verdicts.unchecked + " unchecked; read " + (s.sources.map(x => day(x.synced_at)).sort().pop() || "never");
    const models = await json("api/v1/models"); $("models").tBodies[0].replaceChildren();
    for (const m of models.items) row("models", [[m.name + (m.version ? ":" + m.version : "")], [m.digest], [m.kits, "n"], [m.records, "n"], [m.devices, "n"], [m.signed === null ? "unchecked" : m.signed ? "ok" : "refused"], [button("lineage", async () => { const l = await json("api/v1/lineage/" + m.digest); $("lineage").textContent = JSON.stringify(l.items, null, 1); $("lineage").hidden = false; $("lineage").focus(); })]]);
    await search(false);
    if (/^#sha256:[0-9a-f]{64}$/.test(location.hash)) await show(location.hash.slice(1));
  };
  $("search").addEventListener("submit", e => { e.preventDefault(); question = new URLSearchParams([...new FormData(e.target)].filter(([, v]) => v)); next = null; search(false).catch(tell); });
  $("more").addEventListener("click", () => search(true).catch(tell));
  $("login").addEventListener("submit", e => { e.preventDefault(); token = $("token").value.trim(); try { sessionStorage.setItem("edgeprov", token); } catch { /* kept for this page only */ } start().catch(tell); });
  start().catch(tell);
})();
