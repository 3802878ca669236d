"""Tables of English abbreviations, units, currencies and acronyms with their readings, for text/english.py."""

from __future__ import annotations

# ---- Abbreviations

# Before a name, in any case; the full stop is never the end of a sentence.
TITLES = {
    "Mr": "Mister", "Mrs": "Missus", "Ms": "Miz", "Messrs": "Messieurs", "Mme": "Madame", "Prof": "Professor",
    "Gen": "General", "Col": "Colonel", "Maj": "Major", "Capt": "Captain", "Lt": "Lieutenant", "Sgt": "Sergeant",
    "Cpl": "Corporal", "Pvt": "Private", "Adm": "Admiral", "Cmdr": "Commander", "Cdr": "Commander",
    "Brig": "Brigadier", "Insp": "Inspector", "Det": "Detective", "Rev": "Reverend", "Fr": "Father",
    "Hon": "Honorable", "Gov": "Governor", "Sen": "Senator", "Rep": "Representative", "Pres": "President",
    "Supt": "Superintendent", "Amb": "Ambassador", "Atty": "Attorney", "Sec": "Secretary", "Mt": "Mount",
    "Mts": "Mountains", "Ft": "Fort", "Pt": "Point",
}  # fmt: skip
ANYWHERE = ("Mr", "Mrs", "Ms", "Prof")  # also before a lower-case word: "mr. smith"
# Anywhere. A full stop stays at the end of the text and, for the entries of `LAST_WORDS`, also before a capital.
SHORT = {
    "e.g.": "for example", "i.e.": "that is", "vs.": "versus", "viz.": "namely", "cf.": "compare", "al.": "al",
    "approx.": "approximately", "dept.": "department", "govt.": "government", "assn.": "association",
    "intl.": "international", "natl.": "national", "mgr.": "manager", "attn.": "attention", "misc.": "miscellaneous",
    "incl.": "including", "excl.": "excluding", "esp.": "especially", "orig.": "originally", "avg.": "average",
    "qty.": "quantity", "Bldg.": "Building", "acct.": "account", "assoc.": "associate", "asst.": "assistant",
    "usu.": "usually", "tel.": "telephone", "pp.": "pages", "figs.": "figures", "jr.": "junior", "sr.": "senior",
    "Esq.": "Esquire", "Univ.": "University", "Bros.": "Brothers", "w/o": "without", "w/": "with", "c/o": "care of",
    "Blvd.": "Boulevard", "Ave.": "Avenue", "Rd.": "Road", "Ln.": "Lane", "Hwy.": "Highway", "Apt.": "Apartment",
    "Ste.": "Suite", "Pkwy.": "Parkway", "Rte.": "Route", "Sq.": "Square", "Ct.": "Court", "Pl.": "Place",
    "Terr.": "Terrace", "Cir.": "Circle", "yrs.": "years", "hrs.": "hours", "mins.": "minutes", "secs.": "seconds",
    "mmHg": "millimeters of mercury",
    "etc.": "et cetera", "Inc.": "Incorporated", "Ltd.": "Limited", "Corp.": "Corporation", "Co.": "Company",
}  # fmt: skip
LAST_WORDS = ("etc.", "Inc.", "Ltd.", "Corp.", "Co.", "jr.", "sr.", "Jr.", "Sr.", "Ave.", "Blvd.", "Rd.", "Ln.", "Sq.")
LAST_WORDS += ("Terr.", "Cir.", "yrs.", "hrs.", "mins.", "secs.")
# Without a full stop, after a name.
AFTER_NAMES = {"Inc": "Incorporated", "Ltd": "Limited", "Corp": "Corporation", "Jr": "Junior", "Sr": "Senior"}
AFTER_NAMES |= {"Ave": "Avenue", "Blvd": "Boulevard", "Hwy": "Highway", "Rd": "Road", "Pkwy": "Parkway"}
# Only before a figure, or those of the second table also before a Roman numeral.
BEFORE_FIGURES = {
    "no": "number", "vv": "verses", "nos": "numbers", "p": "page", "ca": "circa", "c": "circa", "est": "established",
    "ext": "extension", "ed": "edition", "min": "minimum", "max": "maximum", "rm": "room",
    "temp": "temperature", "ver": "version",
}  # fmt: skip
BEFORE_NUMERALS = {"fig": "figure", "ch": "chapter", "vol": "volume", "sec": "section", "art": "article"}
BEFORE_NUMERALS |= {"eq": "equation", "ex": "example", "tab": "table", "app": "appendix"}
BEFORE_NUMERALS |= {"pt": "part", "bk": "book", "sc": "scene", "para": "paragraph", "pg": "page", "chap": "chapter"}
# Only before a word or a figure: they are words of their own at the end of a sentence.
BEFORE_WORDS = {"max": "maximum", "min": "minimum", "temp": "temperature", "est": "estimated", "vol": "volume"}
BEFORE_WORDS |= {"co": "company"}
BEFORE_OF = {"dist": "district", "inst": "institute", "soc": "society", "div": "division", "bd": "board"}
BEFORE_OF |= {"min": "ministry"}
DIRECTIONS = {"N": "North", "S": "South", "E": "East", "W": "West", "NE": "Northeast", "NW": "Northwest"}
DIRECTIONS |= {"SE": "Southeast", "SW": "Southwest"}
STREETS = "Street|Avenue|Boulevard|Road|Drive|Lane|Court|Place|Square|Highway|Parkway|Way"
STATES = {
    pair[:2]: pair[3:]
    for pair in (
        "AL Alabama|AK Alaska|AZ Arizona|AR Arkansas|CA California|CO Colorado|CT Connecticut|DE Delaware|FL Florida|"
        "GA Georgia|HI Hawaii|ID Idaho|IL Illinois|IN Indiana|IA Iowa|KS Kansas|KY Kentucky|LA Louisiana|ME Maine|"
        "MD Maryland|MA Massachusetts|MI Michigan|MN Minnesota|MS Mississippi|MO Missouri|MT Montana|NE Nebraska|"
        "NV Nevada|NH New Hampshire|NJ New Jersey|NM New Mexico|NY New York|NC North Carolina|ND North Dakota|OH Ohio|"
        "OK Oklahoma|OR Oregon|PA Pennsylvania|RI Rhode Island|SC South Carolina|SD South Dakota|TN Tennessee|TX Texas|"
        "UT Utah|VT Vermont|VA Virginia|WA Washington|WV West Virginia|WI Wisconsin|WY Wyoming"
    ).split("|")
}
MONTHS = tuple("January February March April May June July August September October November December".split())
MONTH_OF = {name: i for i, name in enumerate(MONTHS, 1)} | {name[:3]: i for i, name in enumerate(MONTHS, 1)}
MONTH_OF |= {"Sept": 9}
DAYS = {"Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday"}
DAYS |= {"Thur": "Thursday", "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday"}

# ---- Signs

ELEMENTS = "Ag|Al|Ba|Br|Ca|Cl|Cu|Fe|Hg|Li|Mg|Mn|Na|Ni|Pb|Si|Sn|Ti|Zn"  # of two letters, in formulas
SIGNS = {
    "%": "percent", "\u2030": "per mille", "&": "and", "@": "at", "+": "plus", "=": "equals", "°": "degrees",
    "±": "plus or minus", "÷": "divided by", "§": "section", "©": "copyright", "\u2116": "number",
    "\u2248": "about", "\u2260": "is not equal to", "\u2264": "less than or equal to",
    "\u2265": "greater than or equal to", "\u221a": "square root of", "\u221e": "infinity", "\u2192": "to",
    "\u2191": "up", "\u2193": "down",
    "\u2206": "delta", "\u2211": "sum of", "\u2208": "in", "\u221d": "is proportional to", "\u2261": "is equivalent to",
    "\u21d2": "implies", "\u223c": "about", "\u2243": "about", "\u2245": "about", "\u226a": "much less than",
    "\u226b": "much greater than",
    "#": "pound", "\\": "backslash", "×": "times",
    "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₽": "ruble", "₩": "won", "¢": "cent",
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
    "₹": ("rupee", "paisa"), "₽": ("ruble", "kopeck"), "₩": ("won", "jeon"), "₺": ("lira", "kurus"),
    "₴": ("hryvnia", "kopiyka"), "₪": ("shekel", "agora"), "₫": ("dong", "hao"), "₱": ("peso", "centavo"),
    "₦": ("naira", "kobo"), "฿": ("baht", "satang"), "₿": ("bitcoin", "cent"), "Rs": ("rupee", "paisa"),
}  # fmt: skip
CURRENCIES |= {
    f"{prefix}$": (f"{name} dollar", "cent")
    for prefix, name in (("US", "U S"), ("C", "Canadian"), ("CA", "Canadian"), ("A", "Australian"),
                         ("AU", "Australian"), ("NZ", "New Zealand"), ("HK", "Hong Kong"), ("S", "Singapore"))
}  # fmt: skip
CODES = {
    "USD": ("U S dollar", "cent"), "EUR": ("euro", "cent"), "GBP": ("British pound", "penny"), "JPY": ("yen", "sen"),
    "CHF": ("Swiss franc", "centime"), "CAD": ("Canadian dollar", "cent"), "AUD": ("Australian dollar", "cent"),
    "NZD": ("New Zealand dollar", "cent"), "INR": ("Indian rupee", "paisa"), "CNY": ("yuan", "fen"),
    "RMB": ("yuan", "fen"), "RUB": ("ruble", "kopeck"), "KRW": ("won", "jeon"), "MXN": ("Mexican peso", "centavo"),
    "BRL": ("Brazilian real", "centavo"), "SEK": ("Swedish krona", "ore"), "NOK": ("Norwegian krone", "ore"),
    "DKK": ("Danish krone", "ore"), "PLN": ("zloty", "grosz"), "ZAR": ("rand", "cent"),
    "SGD": ("Singapore dollar", "cent"), "HKD": ("Hong Kong dollar", "cent"), "BTC": ("bitcoin", "cent"),
}  # fmt: skip
SCALES = {"K": "thousand", "k": "thousand", "M": "million", "m": "million", "mn": "million", "B": "billion"}
SCALES |= {"bn": "billion", "T": "trillion", "tn": "trillion"}

# ---- Units: symbol -> (one, several)


def _units() -> dict[str, tuple[str, str]]:
    plain = (
        "km kilometer, m meter, cm centimeter, mm millimeter, nm nanometer, µm micrometer, mi mile, yd yard, "
        "kg kilogram, g gram, mg milligram, µg microgram, mcg microgram, lb pound, lbs pound, oz ounce, "
        "L liter, l liter, cl centiliter, dl deciliter, dL deciliter, ml milliliter, mL milliliter, gal gallon, "
        "tbsp tablespoon, tsp teaspoon, pt pint, qt quart, cc cubic centimeter, "
        "s second, sec second, secs second, ms millisecond, µs microsecond, ns nanosecond, min minute, mins minute, "
        "h hour, hr hour, hrs hour, yr year, yrs year, wk week, wks week, mo month, mos month, "
        "B byte, KB kilobyte, kB kilobyte, MB megabyte, GB gigabyte, TB terabyte, PB petabyte, Mb megabit, Gb gigabit, "
        "V volt, kV kilovolt, mV millivolt, W watt, kW kilowatt, MW megawatt, GW gigawatt, mA milliamp, "
        "µA microamp, µV microvolt, mW milliwatt, mH millihenry, µH microhenry, MΩ megaohm, "
        "Ω ohm, kΩ kiloohm, J joule, kJ kilojoule, cal calorie, kcal kilocalorie, Pa pascal, hPa hectopascal, "
        "kPa kilopascal, N newton, dB decibel, px pixel, MP megapixel, ha hectare, mol mole, ct carat, "
        "Wh watt hour, kWh kilowatt hour, MWh megawatt hour, GWh gigawatt hour, TWh terawatt hour, mAh milliamp hour, "
        "kbps kilobit per second, Mbps megabit per second, Gbps gigabit per second, mph mile per hour, "
        "kph kilometer per hour, kmh kilometer per hour, mpg mile per gallon, psi pound per square inch, "
        "nmi nautical mile, deg degree, kt knot, kts knot, Nm newton meter, kN kilonewton, "
        "MPa megapascal, GPa gigapascal, mbar millibar, lm lumen, Ah amp hour, mSv millisievert, eV electronvolt, "
        "keV kiloelectronvolt, MeV megaelectronvolt, GeV gigaelectronvolt, TeV teraelectronvolt"
    )
    units: dict[str, tuple[str, str]] = {}
    for pair in plain.split(", "):
        symbol, word = pair.split(" ", 1)
        head, per, rest = word.partition(" per ")
        units[symbol] = (word, f"{head}s{per}{rest}")
    for symbol, word in (("km", "kilometer"), ("m", "meter"), ("cm", "centimeter"), ("mm", "millimeter")):
        units[symbol + "^2"] = (f"square {word}", f"square {word}s")
        units[symbol + "^3"] = (f"cubic {word}", f"cubic {word}s")
    for symbol in ("km", "kg", "cm", "ml", "lb", "lbs", "oz", "mph"):  # in capitals
        units[symbol.upper()] = units[symbol]
    units |= {"Kg": units["kg"], "Km": units["km"], "ft": ("foot", "feet"), "FT": ("foot", "feet")}
    for symbol in ("km", "kg", "cm", "mg", "ml", "yd", "gal", "qt"):  # with the plural's ending
        units[symbol + "s"] = units[symbol]
    units["ft^2"] = ("square foot", "square feet")
    for short, word in (("sq", "square"), ("cu", "cubic")):
        for symbol in ("ft", "in", "mi", "yd", "m", "km", "cm"):
            one, several = {"in": ("inch", "inches")}.get(symbol) or units[symbol]
            for written in (f"{short} {symbol}", f"{short}. {symbol}."):
                units[written] = (f"{word} {one}", f"{word} {several}")
    units |= {"fl oz": ("fluid ounce", "fluid ounces")}
    units["fl. oz"] = units["fl oz"]
    units |= {"in^2": ("square inch", "square inches"), '"': ("inch", "inches")}
    units |= {"m/s^2": ("meter per second squared", "meters per second squared")}
    units |= {"°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit")}
    units |= {"° C": units["°C"], "° F": units["°F"], "°": ("degree", "degrees"), "%": ("percent", "percent")}
    units |= {"Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "MHz": ("megahertz", "megahertz")}
    units |= {"KHz": units["kHz"], "GHz": ("gigahertz", "gigahertz"), "THz": ("terahertz", "terahertz")}
    units |= {"hp": ("horsepower", "horsepower"), "rpm": ("R P M", "R P M")}
    units |= {"fps": ("frames per second", "frames per second")}
    units |= {"bpm": ("beats per minute", "beats per minute"), "ppm": ("parts per million", "parts per million")}
    units |= {"dpi": ("dots per inch", "dots per inch")}
    units |= {symbol.capitalize(): units[symbol] for symbol in ("tbsp", "tsp", "lb", "lbs", "oz")}
    for symbol, prefix in (("µ", "micro"), ("n", "nano"), ("p", "pico")):
        units[symbol + "F"] = (f"{prefix}farad", f"{prefix}farads")
    return units


UNITS = _units()
PER = "second minute hour day week month year person night mile kilometer kilogram pound gallon liter head".split()
PER = {word: word for word in PER} | {"hr": "hour", "h": "hour", "s": "second", "min": "minute", "sec": "second"}
PER |= {"yr": "year", "mo": "month", "wk": "week", "kg": "kilogram", "lb": "pound", "km": "kilometer", "m": "meter"}
PER |= {"m^3": "cubic meter", "cm^3": "cubic centimeter", "m^2": "square meter", "cm^2": "square centimeter"}
PER |= {"L": "liter", "l": "liter", "dL": "deciliter", "dl": "deciliter", "ml": "milliliter", "mL": "milliliter"}
PER |= {"g": "gram", "100g": "hundred grams", "gal": "gallon", "oz": "ounce", "sq ft": "square foot"}
# A figure before one of these is not in front of the thing that it measures: "a $5 bill", but "a $5 in change".
NO_THINGS = frozenset(
    "a an the of in on at to for from by with as and or but per each apiece is are was were be been has have had will "
    "would can could may might must more less later earlier ago away off up down out over under ahead behind than then "
    "that this when while if because so too now today yesterday tomorrow again it he she they we you i there".split()
)

# Before one of these four figures are a number, no year.
COUNTED = frozenset(
    "people men women children persons votes voters soldiers troops students passengers guests visitors fans patients "
    "pages words lines items copies tickets seats cars houses points members employees workers steps bits bytes "
    "calories dollars euros pounds cents miles feet inches meters kilometers yards acres tons grams kilograms liters "
    "gallons watts volts years months weeks days hours minutes seconds degrees percent times".split()
)

# ---- Roman numerals

MONARCHS = frozenset(
    "Henry Edward George William Richard Charles James John Louis Philip Pius Paul Benedict Elizabeth Mary Catherine "
    "Alexander Nicholas Napoleon Frederick Ferdinand Leopold Otto Peter Ivan Gregory Leo Clement Innocent Urban Felipe "
    "Boniface Francis Albert Victoria Haakon Harald Olaf Gustav Carl Christian Ramses Ramesses Ptolemy Darius Xerxes "
    "Constantine Justinian Umberto Emmanuel Alfonso Juan Baldwin Robert David Stephen Wilhelm Sixtus Isabella Margaret "
    "Abdullah Hussein Mohammed Murad Selim Mehmed Cyrus Artaxerxes Antiochus Seleucus Casimir Sigismund Rama".split()
)
RULERS = "King|Queen|Pope|Emperor|Empress|Tsar|Czar|Kaiser|Sultan|Prince|Shah|Pharaoh"
NUMBERED = frozenset(
    "War Wars Chapter Chapters Part Parts Act Acts Volume Volumes Book Books Section Sections Article Articles Phase "
    "Class Type Level Stage Title Appendix Bowl Unit Scene Figure Table Grade Apollo Division Schedule Tier Mark Rocky "
    "Rambo Fantasy Episode Season Round Group Page Step Item Question Problem Lesson Category Zone".split()
)

# ---- Acronyms

# Up to three capitals are spelled unless listed in WORDS; longer ones are words unless in SPELLED or without a reading
# as a word. Those of three and fewer letters in SPELLED are spelled in shouted text, too.
SPELLED = frozenset(
    "HTML UCLA ISBN ESPN YMCA YWCA ASAP HDMI USSR LGBTQ OECD UNHCR USDA USPS AFAIK IATA IAEA USAF ADHD ACLU IMDB BYOB "
    "FBI CIA KGB NSA USA UK UN EU BBC CNN NBC CBS ABC IBM MIT NBA NFL MLB NHL CEO CFO CTO TV PC DVD CD VIP UFO SUV GPS "
    "ATM DNA RNA HIV MRI NYC IRS FDA EPA CDC NHS MP GDP IQ URL USB PDF SMS RSVP DIY FAQ AIDS GPU CPU NYPD NY LAPD "
    "CCTV".split()
) - {"AIDS"}
DOUBLED = {"AAA": "triple A", "AARP": "double A R P", "NAACP": "N double A C P", "NCAA": "N C double A"}
DOUBLED |= {
    "IEEE": "I triple E",
    "OK": "okay",
    "WWW": "W W W",
    "JPEG": "jay peg",
    "MPEG": "em peg",
}
WORDS = frozenset(
    "AN AS AT BE BY DO GO HE IF IN IS ME MY NO OF ON OR SO TO UP WE OH HI AH HA HM MA PA ALL AND ANY ARE ASK BAD BIG "
    "BUT BUY CAN CAR CAT DAY DID DIE DOG EAT END FAR FEW FOR FUN GET GOD GOT GUN GUY HAD HAS HER HEY HIM HIS HOT HOW "
    "ITS JOB JOY LAW LET LOT LOW MAD MAN MAX MAY MEN MIX MOM DAD NEW NOT NOW ODD OFF OIL OLD ONE OUR OUT OWN PAY PUT "
    "RED RUN SAD SAW SAY SEA SEE SET SEX SHE SIR SIT SIX SON SUN TAX TEA TEN THE TOO TOP TRY TWO USE WAR WAS WAY WET "
    "WHO WHY WIN WON YES YET YOU PIN SIM RAM ROM GIF VIN ZIP LAN WAN SAR BOX BAR BED BUS CUT EAR EYE FIX FLY HIT ICE "
    "JAM KEY KID LEG LIP NET NUT PET RAW RAY ROW SKY SPY TOY WAX YEN ZOO AIR ARM ART AGE AGO BIT BOY CUP DOC".split()
)
# Consonants that may begin or end a word: other capitals are spelled (NYPD, ISBN), whatever vowels they have.
ONSETS = frozenset(
    "b bl br c ch chl chr cl cr d dr dw f fl fr g gh gl gn gr h j k kl kn kr l m n p ph pl pn pr ps q qu r rh s sc sch "
    "scr sh shr sk sl sm sn sp sph spl spr sq squ st str sw t th thr tr ts tw v w wh wr x y z".split()
)
CODAS = frozenset(
    "b c ch ck ct d dge f ff ft g gh ght gs h k ks l lb ld lf lk ll lls lm lp ls lt lth lts m mb mp mps ms n nch nd "
    "nds ng ngs nk nks nn ns nt nth nts p ph pp ps pt r rb rc rch rd rds rf rg rk rks rl rls rm rms rn rns rp rr rs "
    "rsh rst rt rth rts s sc sh sk sm sp ss st sts t tch th ths ts tt v w wd wl wn wns ws x y z zz bs ds fs gn".split()
)
