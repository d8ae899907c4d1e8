"""Every word can be translated, and is, in the languages that ship."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import django
import pytest
from babel.messages.mofile import read_mo, write_mo
from babel.messages.pofile import read_po
from django.core.management import call_command
from django.utils import timezone, translation

import garmin_auth
from garmin_auth.models import EndedReason, FailingReason, GarminAuthenticationState, Status
from garmin_auth.notices import notice_mail
from tests import services
from tests.test_templates import PAGES, Browser

PACKAGE = Path(garmin_auth.__file__).parent
LANGUAGES = ["de", "es", "fr", "ja"]
# Django has it, and so has no word of ours: each is put between brackets, to see what is not.
PSEUDO = "eo"
# What is shown as it is: names, addresses and numbers of the tests, and proper names.
AS_IT_IS = re.compile(
    r"ana@example\.com|mfa@example\.com|m\w?\*+\w?@\w*\*?\w*\.?com|\bana\b|Garmin Connect"
    r"|garth|garminconnect|\bpersonal\b"
)
# Django's own words, in Django's own translations.
DJANGOS = ("Enter a valid email address.", "This field is required.")
SHOWN = ("title", "aria-label", "placeholder", "alt", "data-lost", "data-slow")

needs_gettext = pytest.mark.skipif(
    bool(services.why_not_gettext()), reason="gettext's programs are not installed"
)


class Words(HTMLParser):
    """What a person is shown of a page, times left out."""

    def __init__(self, source):
        super().__init__()
        self.words, self._inside = [], []
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        if tag in ("time", "script", "style"):
            self._inside.append(tag)
        self.words += [value for name, value in attrs if name in SHOWN and value]

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside and data.strip():
            self.words.append(data.strip())


def catalog(language):
    with (PACKAGE / "locale" / language / "LC_MESSAGES" / "django.po").open("rb") as source:
        return read_po(source, locale=language)


@pytest.fixture(scope="session")
def extracted(tmp_path_factory):
    """The messages that the source holds now."""
    copy = tmp_path_factory.mktemp("source") / "garmin_auth"
    left_out = shutil.ignore_patterns("locale", "testing", "__pycache__")
    shutil.copytree(PACKAGE, copy, ignore=left_out)
    (copy / "locale").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        call_command("makemessages", locale=[PSEUDO], verbosity=0)
    with (copy / "locale" / PSEUDO / "LC_MESSAGES" / "django.po").open("rb") as source:
        return read_po(source, locale=PSEUDO)


def bracketed(text):
    return f"⟦{text}⟧"


@pytest.fixture
def pseudo(extracted, settings, tmp_path):
    """A site whose language has every message that is marked, between brackets."""
    for message in extracted:
        if message.id:
            ids = message.id if isinstance(message.id, tuple) else (message.id,)
            strings = tuple(map(bracketed, ids))
            message.string = strings if isinstance(message.id, tuple) else strings[0]
    folder = tmp_path / PSEUDO / "LC_MESSAGES"
    folder.mkdir(parents=True)
    with (folder / "django.mo").open("wb") as target:
        write_mo(target, extracted)
    settings.LOCALE_PATHS = [tmp_path]
    settings.LANGUAGE_CODE = PSEUDO


@pytest.fixture
def browser(user, connect, garmin):
    return Browser(user, connect, garmin)


def unmarked(response):
    """The words of a page that stand in no brackets."""
    return unmarked_words(response.content.decode())


def unmarked_words(source):
    text = "\n".join(Words(source).words)
    before = ""
    while text != before:
        before, text = text, re.sub(r"⟦[^⟦⟧]*⟧", "", text)
    for words in map(translation.gettext, DJANGOS):
        text = text.replace(words, "")
    lines = AS_IT_IS.sub("", text).splitlines()
    return [line for line in lines if re.search(r"[A-Za-z]{2}", line)]


# Every word can be translated


@needs_gettext
@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.__name__)
def test_a_page_has_no_word_that_cannot_be_translated(pseudo, browser, shown):
    assert unmarked(shown(browser)) == []


FACTS = {
    "failing": {"since": timezone.now(), "reason": "refused"},
    "recovered": {"since": timezone.now()},
    "ending": {"ends_at": timezone.now()},
    "expired": {},
    "disconnected": {},
}


@needs_gettext
@pytest.mark.parametrize("kind", FACTS)
def test_a_mail_has_no_word_that_cannot_be_translated(pseudo, user, kind):
    user.email = "ana@example.com"
    mail = notice_mail(kind, user, "https://site.example", **FACTS[kind])

    assert mail.subject.startswith("⟦")
    [(html, _)] = mail.alternatives
    for text in (mail.body, re.sub(r"<[^>]*>", "", html.partition("<body")[2].partition(">")[2])):
        words = re.sub(r"⟦[^⟦⟧]*⟧", "", text)
        assert set(words.split()) <= {
            "https://site.example/garmin/login/",
            "https://site.example/garmin/",
            "https://connect.garmin.com",
        }


@needs_gettext
def test_the_models_names_can_be_translated(pseudo):
    model = GarminAuthenticationState
    names = [field.verbose_name for field in model._meta.get_fields() if not field.auto_created]
    names += [model._meta.verbose_name, model._meta.verbose_name_plural]
    names += [label for kind in (Status, EndedReason, FailingReason) for label in kind.labels]

    assert [name for name in map(str, names) if not name.startswith("⟦")] == []


@needs_gettext
def test_our_words_in_the_admin_can_be_translated(pseudo, admin_client, user, connect):
    connect(user)
    page = admin_client.get("/admin/garmin_auth/garminauthenticationstate/?_facets=True")
    [figures] = re.findall(r'<div class="ga-figures">.*?</div>', page.content.decode(), re.S)

    assert unmarked_words(figures) == []
    for words in ("Check selected Garmin accounts", "Disconnect selected Garmin accounts"):
        assert bracketed(words) in page.content.decode()


@needs_gettext
@pytest.mark.parametrize("action", ["disconnect", "delete_selected"])
def test_what_the_admin_asks_can_be_translated(pseudo, admin_client, people, action):
    people(12)
    row = GarminAuthenticationState.objects.first()
    page = admin_client.post(
        "/admin/garmin_auth/garminauthenticationstate/",
        {"action": action, "select_across": 1, "_selected_action": row.pk},
    )
    [question] = re.findall(r'<div class="ga-question">.*?</div>', page.content.decode(), re.S)

    # The names of users stand beside our words.
    assert [words for words in unmarked_words(question) if not words.startswith("user0")] == []


# Every word is translated


@needs_gettext
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalog_has_the_messages_of_the_source_and_no_others(extracted, language):
    assert set(strings(catalog(language))) == set(strings(extracted))


def test_no_message_can_be_mistaken_for_one_of_djangos():
    """Django merges all catalogs: without a context, the first app's translation is everybody's."""
    theirs = set()
    for path in Path(django.__file__).parent.rglob("LC_MESSAGES/django.mo"):
        if path.parent.parent.name in LANGUAGES:
            with path.open("rb") as source:
                theirs |= {single(m.id) for m in read_mo(source) if not m.context}
    ours = {single(m.id) for m in catalog("de") if m.id and not m.context}

    assert len(theirs) > 500
    assert ours & theirs == set()


def test_a_message_that_any_app_could_have_has_a_context():
    """A few words that are no sentence, and do not name Garmin."""
    without = {single(m.id) for m in catalog("de") if m.id and not m.context}
    short = {text for text in without if len(text.split()) <= 3 and not text.endswith(".")}

    assert {text for text in short if "Garmin" not in text} == set()


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalog_has_every_message_translated(language):
    missing = [
        message.id
        for message in catalog(language)
        if message.fuzzy or not all(message.string if message.pluralizable else [message.string])
    ]
    assert missing == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_translation_has_the_placeholders_of_its_message(language):
    messages = catalog(language)
    wrong = [(message.id, list(errors)) for message, errors in messages.check()]
    for message in messages:
        if message.id and not message.pluralizable and braces(message.id) != braces(message.string):
            wrong.append((message.id, "braces"))
    assert wrong == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_catalog_is_compiled(language):
    with (PACKAGE / "locale" / language / "LC_MESSAGES" / "django.mo").open("rb") as source:
        compiled = strings(read_mo(source))
    assert compiled == strings(catalog(language))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("shown", PAGES, ids=lambda shown: shown.__name__)
def test_a_page_has_no_english_sentence(browser, settings, shown, language):
    settings.LANGUAGE_CODE = language
    response = shown(browser)
    text = " ".join("\n".join(Words(response.content.decode()).words).split())

    assert f'<html lang="{language}"' in response.content.decode()
    assert [sentence for sentence in english(language) if sentence in text] == []


def english(language):
    """The messages of more than one word, without placeholders, that are not the same there."""
    return [
        message.id
        for message in catalog(language)
        if isinstance(message.id, str)
        and " " in message.id
        and "%" not in message.id
        and message.string != message.id
    ]


def braces(text):
    return sorted(re.findall(r"\{\w*\}", text))


def strings(messages):
    """What is said for each message; a plural's forms are a list or a tuple."""
    return {(m.context, plain(m.id)): plain(m.string) for m in messages if m.id}


def single(text):
    """A message, or the singular of a plural."""
    return text if isinstance(text, str) else text[0]


def plain(text):
    return text if isinstance(text, str) else tuple(text)
