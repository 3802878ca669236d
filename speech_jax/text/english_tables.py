"""Tables of English abbreviations, units, currencies and acronyms with their readings, for text/english.py."""

from __future__ import annotations

# ---- Abbreviations

# Before a name; the full stop is never the end of a sentence.
TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Messrs": "Messieurs", "Prof": "Professor", "Gen": "General",
    "Col": "Colonel", "Maj": "Major", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant", "Cpl": "Corporal",
    "Pvt": "Private", "Adm": "Admiral", "Cmdr": "Commander", "Rev": "Reverend", "Fr": "Father", "Hon": "Honorable",
    "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President", "Supt": "Superintendent",
    "Mt": "Mount", "Ft": "Fort",
}  # fmt: skip
# Anywhere. A full stop stays at the end of the text and, for the entries of the last line, also before a capital.
SHORT = {
    "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "cf.": "compare", "approx.": "approximately",
    "dept.": "department", "est.": "established", "min.": "minimum", "max.": "maximum", "vol.": "volume",
    "fig.": "figure", "figs.": "figures", "ch.": "chapter", "sec.": "section", "pp.": "pages", "ed.": "edition",
    "al.": "al", "Jr.": "Junior", "Sr.": "Senior", "Esq.": "Esquire", "Univ.": "University", "Blvd.": "Boulevard",
    "Ave.": "Avenue", "Rd.": "Road", "Ln.": "Lane", "Hwy.": "Highway", "Apt.": "Apartment", "Bros.": "Brothers",
    "w/o": "without", "w/": "with", "c/o": "care of",
    "etc.": "et cetera", "Inc.": "Incorporated", "Ltd.": "Limited", "Corp.": "Corporation", "Co.": "Company",
}  # fmt: skip
LAST_WORDS = ("etc.", "Inc.", "Ltd.", "Corp.", "Co.")
# Only before a figure.
BEFORE_FIGURES = {"No": "number", "Nos": "numbers", "no": "number", "nos": "numbers", "p": "page", "ca": "circa"}
MONTHS = tuple("January February March April May June July August September October November December".split())
MONTH_OF = {name: i for i, name in enumerate(MONTHS, 1)} | {name[:3]: i for i, name in enumerate(MONTHS, 1)}
MONTH_OF |= {"Sept": 9}
DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday"}
DAYS |= {"Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday"}  # not "Sat." and "Sun.", which are also words

# ---- Signs

SIGNS = {
    "%": "percent", "\u2030": "per mille", "&": "and", "@": "at", "+": "plus", "=": "equals", "°": "degrees",
    "±": "plus or minus", "÷": "divided by", "§": "section", "©": "copyright", "\u2116": "number",
    "\u2248": "about", "\u2260": "is not equal to", "\u2264": "is at most", "\u2265": "is at least",
    "\u221a": "square root of", "\u221e": "infinity", "\u2192": "to", "#": "hash", "\\": "backslash",
    "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₽": "ruble", "₩": "won", "¢": "cent",
    "²": "squared", "³": "cubed",
}  # fmt: skip
GREEK = dict(
    zip(
        "αβγδεζηθικλµνξοπρστυφχψωΔΣΩ",
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi "
        "chi psi omega delta sigma omega".split(),
        strict=True,
    )
)

# ---- Money

CURRENCIES = {
    "$": ("dollar", "cent"), "€": ("euro", "cent"), "£": ("pound", "penny"), "¥": ("yen", "sen"),
    "₹": ("rupee", "paisa"), "₽": ("ruble", "kopeck"), "₩": ("won", "jeon"),
    "US$": ("U S dollar", "cent"), "C$": ("Canadian dollar", "cent"), "A$": ("Australian dollar", "cent"),
    "NZ$": ("New Zealand dollar", "cent"), "HK$": ("Hong Kong dollar", "cent"),
    "USD": ("U S dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("British pound", "penny"),
    "JPY": ("yen", "sen"), "CHF": ("Swiss franc", "centime"),
}  # fmt: skip
SCALES = {"K": "thousand", "k": "thousand", "M": "million", "m": "million", "mn": "million", "B": "billion"}
SCALES |= {"bn": "billion", "T": "trillion", "tn": "trillion"}

# ---- Units: symbol -> (one, several)


def _units() -> dict[str, tuple[str, str]]:
    plain = (
        "km kilometer, m meter, cm centimeter, mm millimeter, nm nanometer, µm micrometer, mi mile, yd yard, "
        "kg kilogram, g gram, mg milligram, µg microgram, lb pound, lbs pound, oz ounce, "
        "L liter, l liter, cl centiliter, ml milliliter, mL milliliter, gal gallon, "
        "s second, sec second, secs second, ms millisecond, µs microsecond, ns nanosecond, min minute, mins minute, "
        "h hour, hr hour, hrs hour, yr year, yrs year, "
        "B byte, KB kilobyte, kB kilobyte, MB megabyte, GB gigabyte, TB terabyte, PB petabyte, Mb megabit, Gb gigabit, "
        "V volt, kV kilovolt, mV millivolt, W watt, kW kilowatt, MW megawatt, GW gigawatt, mA milliamp, "
        "J joule, kJ kilojoule, cal calorie, kcal kilocalorie, Pa pascal, hPa hectopascal, kPa kilopascal, N newton, "
        "dB decibel, px pixel, ha hectare, Wh watt hour, kWh kilowatt hour, MWh megawatt hour, mAh milliamp hour"
    )
    units: dict[str, tuple[str, str]] = {}
    for pair in plain.split(", "):
        symbol, word = pair.split(" ", 1)
        units[symbol] = (word, word + "s")
    for symbol, word in (("km", "kilometer"), ("m", "meter"), ("cm", "centimeter"), ("mm", "millimeter")):
        units[symbol + "²"] = (f"square {word}", f"square {word}s")
        units[symbol + "³"] = (f"cubic {word}", f"cubic {word}s")
    units |= {"ft": ("foot", "feet"), "sq ft": ("square foot", "square feet"), "sq mi": ("square mile", "square miles")}
    units |= {"sq. ft.": ("square foot", "square feet"), "cu ft": ("cubic foot", "cubic feet"), '"': ("inch", "inches")}
    units |= {"mph": ("mile per hour", "miles per hour"), "km/h": ("kilometer per hour", "kilometers per hour")}
    units |= {"kph": units["km/h"], "m/s": ("meter per second", "meters per second")}
    units |= {"m/s²": ("meter per second squared", "meters per second squared")}
    units |= {"kbps": ("kilobit per second", "kilobits per second"), "mpg": ("mile per gallon", "miles per gallon")}
    units |= {"Mbps": ("megabit per second", "megabits per second")}
    units |= {"Gbps": ("gigabit per second", "gigabits per second")}
    units |= {"°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit")}
    units |= {"° C": units["°C"], "° F": units["°F"], "°": ("degree", "degrees"), "%": ("percent", "percent")}
    units |= {"Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz")}
    units |= {"GHz": ("gigahertz", "gigahertz"), "rpm": ("R P M", "R P M")}
    units |= {"fps": ("frames per second", "frames per second")}
    units |= {"bpm": ("beats per minute", "beats per minute"), "ppm": ("parts per million", "parts per million")}
    return units


UNITS = _units()
PER = "second minute hour day week month year person night mile kilometer kilogram pound gallon liter head".split()
PER = {word: word for word in PER} | {"hr": "hour", "h": "hour", "s": "second", "min": "minute", "sec": "second"}
PER |= {"yr": "year", "mo": "month", "wk": "week", "kg": "kilogram", "lb": "pound", "km": "kilometer", "m": "meter"}

# ---- Roman numerals

MONARCHS = frozenset(
    "Henry Edward George William Richard Charles James John Louis Philip Pius Paul Benedict Elizabeth Mary Catherine "
    "Alexander Nicholas Napoleon Frederick Ferdinand Leopold Otto Peter Ivan Gregory Leo Clement Innocent Urban Felipe "
    "Boniface Francis Albert Victoria Haakon Harald Olaf Gustav Carl Christian Ramses Ramesses Ptolemy Darius Xerxes "
    "Constantine Justinian Umberto Emmanuel Alfonso Juan Baldwin Robert Malcolm David Stephen Wilhelm Sixtus".split()
)
NUMBERED = frozenset(
    "War Chapter Part Act Volume Book Section Article Phase Class Type Level Stage Title Appendix Bowl Unit Scene "
    "Figure Table Grade Apollo Division Schedule Tier Mark Rocky Episode Season Round Group".split()
)

# ---- Acronyms

# Up to three capitals are spelled unless listed in WORDS; longer ones are words unless in SPELLED or without a vowel.
SPELLED = frozenset(
    "HTML UCLA ISBN ESPN YMCA YWCA ASAP HDMI USSR LGBTQ OECD UNHCR USDA USPS AFAIK IATA IAEA USAF ADHD ACLU".split()
)
DOUBLED = {"AAA": "triple A", "AARP": "double A R P", "NAACP": "N double A C P", "NCAA": "N C double A"}
DOUBLED |= {"IEEE": "I triple E", "OK": "okay", "WWW": "W W W"}
WORDS = frozenset(
    "AN AS AT BE BY DO GO HE IF IN IS ME MY NO OF ON OR SO TO UP WE OH HI AH HA HM MA PA ALL AND ANY ARE ASK BAD BIG "
    "BUT BUY CAN CAR CAT DAY DID DIE DOG EAT END FAR FEW FOR FUN GET GOD GOT GUN GUY HAD HAS HER HEY HIM HIS HOT HOW "
    "ITS JOB JOY LAW LET LOT LOW MAD MAN MAX MAY MEN MIX MOM DAD NEW NOT NOW ODD OFF OIL OLD ONE OUR OUT OWN PAY PUT "
    "RED RUN SAD SAW SAY SEA SEE SET SEX SHE SIR SIT SIX SON SUN TAX TEA TEN THE TOO TOP TRY TWO USE WAR WAS WAY WET "
    "WHO WHY WIN WON YES YET YOU PIN SIM RAM ROM GIF VIN ZIP LAN WAN SAR".split()
)
