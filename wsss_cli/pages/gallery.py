"""Cards of images that can be sorted, filtered and walked through with the keyboard."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from wsss_cli.pages.html import text

SCRIPT = """
(() => {
  const box = document.getElementById('gallery');
  if (!box) return;
  const cards = [...box.children], order = document.getElementById('order'), only = document.getElementById('only');
  const count = document.getElementById('count');
  let chosen = null;
  const value = (card, key) => card.dataset[key] === '' ? Infinity : Number(card.dataset[key]);
  const shown = () => [...box.children].filter(card => !card.hidden);
  const choose = card => {
    if (chosen) chosen.classList.remove('chosen');
    chosen = card || null;
    if (chosen) { chosen.classList.add('chosen'); chosen.scrollIntoView({block: 'nearest'}); }
  };
  const draw = () => {
    const key = order.value, sorted = [...cards];
    if (key !== 'id') sorted.sort((a, b) => value(a, key) - value(b, key));
    for (const card of sorted) {
      card.hidden = only.value !== '' && !JSON.parse(card.dataset.classes).includes(only.value);
      box.append(card);
    }
    count.textContent = shown().length + ' of ' + cards.length;
    choose(null);
  };
  order.addEventListener('change', draw);
  only.addEventListener('change', draw);
  box.addEventListener('click', event => choose(event.target.closest('.card')));
  document.addEventListener('keydown', event => {
    if (event.target.tagName === 'SELECT') return;
    const step = {ArrowRight: 1, ArrowDown: 1, j: 1, ArrowLeft: -1, ArrowUp: -1, k: -1}[event.key];
    if (event.key === 'Escape') choose(null);
    if (!step) return;
    event.preventDefault();
    const list = shown(), at = list.indexOf(chosen);
    choose(list[at < 0 ? 0 : Math.min(list.length - 1, Math.max(0, at + step))]);
  });
  draw();
})();
"""


@dataclass(frozen=True)
class Card:
    """One image: its pictures as (title, JPEG), and by what it can be found."""

    id: str
    pictures: Sequence[tuple[str, bytes]]
    classes: Sequence[str]
    score: float | None
    iou: float | None


def gallery(cards: Sequence[Card]) -> str:
    """The bar of choices and the cards."""
    if not cards:
        return ""
    names = sorted({name for card in cards for name in card.classes})
    orders = [("score", "score, worst first")] if any(card.score is not None for card in cards) else []
    orders += [("iou", "mIoU, worst first")] if any(card.iou is not None for card in cards) else []
    orders.append(("id", "name"))
    choices = "".join(f'<option value="{key}">{text(words)}</option>' for key, words in orders)
    classes = "".join(f'<option value="{text(name)}">{text(name)}</option>' for name in names)
    return (
        f'<p class="bar"><label>Order <select id="order">{choices}</select></label>'
        f'<label>Class <select id="only"><option value="">all</option>{classes}</select></label>'
        '<span id="count"></span> · arrow keys or j and k walk, Escape ends</p>'
        f'<div id="gallery">{"".join(map(_card, cards))}</div>'
    )


def _card(card: Card) -> str:
    images = "".join(_picture(title, jpeg) for title, jpeg in card.pictures)
    known = [("score", card.score), ("mIoU", card.iou)]
    figures = "".join(f" · {name} {text(value)}" for name, value in known if value is not None)
    numbers = [("score", card.score), ("iou", card.iou)]
    data = "".join(f' data-{key}="{"" if value is None else value}"' for key, value in numbers)
    return (
        f'<div class="card"{data} data-classes="{text(json.dumps(list(card.classes)))}">'
        f"<p><code>{text(unquote(card.id))}</code> {text(', '.join(card.classes))}{figures}</p>"
        f'<div class="row">{images}</div></div>'
    )


def _picture(title: str, jpeg: bytes) -> str:
    source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
    return f'<div><img alt="{text(title)}" src="{source}"><p>{text(title)}</p></div>'
